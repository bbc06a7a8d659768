"""Executes programs: the step, the loop, evaluation, populations."""
