"""Reply → Waveform, a sentence at a time, in the reply's emotion."""
