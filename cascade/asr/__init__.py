"""Waveform → Transcript."""
