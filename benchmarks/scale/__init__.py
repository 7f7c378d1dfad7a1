"""`scale`: cost of a report and of a partition as their number grows."""
