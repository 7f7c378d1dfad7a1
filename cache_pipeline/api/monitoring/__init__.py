"""What operators see of the API: metrics, health and status."""
