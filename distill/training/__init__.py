"""What learns from the data."""
