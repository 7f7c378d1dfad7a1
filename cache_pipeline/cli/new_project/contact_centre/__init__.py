"""Reports of a contact centre."""
