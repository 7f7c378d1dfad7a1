"""What is missing, asking for it, judging what came, keeping it, answering."""
