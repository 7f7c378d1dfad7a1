"""What a report and a partition cost as there are more of them."""
