"""Observations: every packet seen, at every point, with the statistics of the captures."""
