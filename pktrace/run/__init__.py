"""A run on disk: what run.toml says, checked, and what context/ holds."""
