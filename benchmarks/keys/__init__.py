"""`keys`: one key for every spelling of a question, and what a key costs."""
