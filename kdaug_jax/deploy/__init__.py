"""Deployment of trained networks: as one function, as packed weights, on the command line."""
