"""`trace`: vendor queries for a day of fifty dashboards."""
