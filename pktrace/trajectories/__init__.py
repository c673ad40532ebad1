"""Trajectories: which observations are the same packet, seen at different points of its path."""
