"""Turn → Scores."""
