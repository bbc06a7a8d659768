"""Frozen networks: what they are loaded from, and whether they fit the data."""
