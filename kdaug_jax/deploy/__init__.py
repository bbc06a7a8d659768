"""Trained networks for use elsewhere: as one function, as packed weights, on the command line."""
