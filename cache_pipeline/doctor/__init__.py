"""Whether everything this deployment stands on is there and fit, and what to do where it is not."""
