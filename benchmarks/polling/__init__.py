"""`polling`: number of polls per job, and the lag until its end is noticed."""
