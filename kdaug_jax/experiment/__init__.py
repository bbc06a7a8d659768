"""From a config to a program: everything named, checked and planned before any device work."""
