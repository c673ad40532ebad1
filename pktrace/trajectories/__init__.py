"""Trajectories: the observations of one packet at the points of its path, found and put in order."""
