"""Suites, reports, verification."""
