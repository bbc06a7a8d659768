"""Images on the host: boxes, crops and decoding with NumPy and Pillow alone.

Worker processes import this room and nothing else, so nothing here imports JAX. What is drawn and
computed here equals what the device does, bit for bit.
"""
