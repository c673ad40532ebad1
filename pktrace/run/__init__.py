"""A run on disk: the checked contents of run.toml, and the counters in context/."""
