"""Conversations given by consent: sent, collected, taken back."""
