"""Deterministic ops on one image, their pieces, and thin random wrappers."""
