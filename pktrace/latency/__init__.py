"""Latency per stage and end to end."""
