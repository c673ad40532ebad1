"""One round of placing: rows with equal keys become trajectories."""
