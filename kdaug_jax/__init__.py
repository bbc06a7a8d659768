"""Knowledge distillation and data augmentation in one jitted, sharded JAX step."""
