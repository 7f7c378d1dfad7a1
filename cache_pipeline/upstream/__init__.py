"""Everything between this project and a vendor: quota, tokens, transport, poll schedule, platforms."""
