"""Observations: every packet that was seen, at every point, with what the captures say of themselves."""
