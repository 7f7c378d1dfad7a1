"""Sends requests to vendors: shared quota, access tokens, retries and poll schedule."""
