"""What surrounds training: devices, checkpoints, metrics out, working directory."""
