"""What operators see of the API: metrics, health checks and status queries."""
