"""Measures: pure functions of signals, codes and texts."""
