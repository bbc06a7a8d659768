"""Who is asked when a run is evaluated, for what, and how sums over batches become results."""
