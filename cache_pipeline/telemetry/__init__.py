"""What a process tells of itself: log lines and spans, tied together by one correlation id."""
