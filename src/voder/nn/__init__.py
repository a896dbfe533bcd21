"""Shared mathematics of one device: no files, ranks, losses of a system or command lines."""
