"""Images on the host: decoding files, reading them, cutting crops out of them.

Modules of this room import NumPy, Pillow and `kdaug_jax.errors` only, so that worker processes
start fast and never start JAX.
"""
