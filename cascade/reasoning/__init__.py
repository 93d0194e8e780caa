"""Transcript + Cues + history → Thought and Reply."""
