"""The papers' tables as commands: `python -m kdaug_jax.catalog list|show|command|run|table|record`.

What a paper prints, and which options of which config file make it, stands in the config files
(`experiment.rows`); what was measured here, in small files below `results/`.
"""
