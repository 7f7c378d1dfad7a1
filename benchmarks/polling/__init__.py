"""`polling`: how often a job is asked for, and how long its end goes unnoticed."""
