"""What an attacker, or a careless reader of logs, must not find."""
