"""Arithmetic under the ops: packed pixels, emulated float64, wide products, resize weights."""
