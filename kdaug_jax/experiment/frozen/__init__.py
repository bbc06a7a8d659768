"""Networks that are not trained in an experiment: where they come from, whether they suit it."""
