"""`trace`: what a day of fifty dashboards costs the vendor."""
