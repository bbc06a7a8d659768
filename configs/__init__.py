"""One file an experiment; see common.py for what they share."""
