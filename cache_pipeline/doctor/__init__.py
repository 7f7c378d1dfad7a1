"""Checks of a deployment from the machine it runs on: each check says what it found, and how to fix what is wrong."""
