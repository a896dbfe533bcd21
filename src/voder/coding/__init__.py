"""Entropy coding and containers for codec tokens: bytes, tables and integers only, no model."""
