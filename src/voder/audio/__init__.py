"""Waveforms in and out."""
