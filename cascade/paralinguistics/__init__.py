"""Waveform → Cues: emotion, speaker, vocal events, prosody."""
