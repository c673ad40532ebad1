"""Propose a run.toml for bare captures."""
