"""Images on the host: decoding files, drawing and cutting crops, crews that do so for batches.

Modules of this room import NumPy, Pillow and `kdaug_jax.errors` only, so that worker processes
start fast and never start JAX. What is drawn and computed here equals what the device does, bit for
bit.
"""
