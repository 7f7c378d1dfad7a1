"""Real processes under random faults, and at the end their books held against the vendor's truth."""
