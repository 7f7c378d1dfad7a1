"""The vendors. Each folder knows one vendor's API; nothing above knows any vendor's words."""
