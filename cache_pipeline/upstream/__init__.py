"""Send requests to vendors: shared quota, access tokens, retries and polling schedules."""
