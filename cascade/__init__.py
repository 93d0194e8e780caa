"""The teacher's stages, one folder each, in the order of the flow: asr, paralinguistics, reasoning, tts, judging.

Knows nothing of graphs, training or the student.
"""
