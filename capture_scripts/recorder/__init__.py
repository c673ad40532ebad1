"""The recorder: captures at every point, from their start to sealed files, ``run.toml`` and ``context/``."""
