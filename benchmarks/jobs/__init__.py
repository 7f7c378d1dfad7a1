"""A thousand jobs through RabbitMQ, with a worker killed in the middle."""
