"""`jobs`: a thousand jobs through RabbitMQ, with a worker killed half way."""
