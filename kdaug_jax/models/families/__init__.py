"""The networks, one file a family.

Each file has `NAMES`, the networks that are listed; `sizes(name)`, the smallest and usual side of
an image in pixels; and `build_module(name, num_classes, num_branches, dtype, **options)`, which
returns a Linen module, or None for a name of another family. The module maps (normalised images,
`layers.Mode`) to `types.Outputs`. Submodules are named so that PyTorch's names of the weights lead
to them by the rule of `models.weights`.
"""
