"""Rules: what the filter should do with each packet."""
