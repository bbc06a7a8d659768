"""Knowledge distillation and data augmentation in one jitted, sharded JAX step."""

__version__ = "0.2.0"
