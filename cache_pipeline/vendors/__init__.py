"""The vendors: each knows one API's words, and nothing above knows any."""
