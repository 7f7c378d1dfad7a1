"""The report-data API of the user's guide (G1 to G3)."""
