"""The benchmark `stampede`."""
