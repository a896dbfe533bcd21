"""Turning logits into ids: one sampling, decoding and beam engine for every system."""
