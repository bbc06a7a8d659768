"""Weights of other frameworks: their files, and the names that they use."""
