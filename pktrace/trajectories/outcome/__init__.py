"""From the last round of following to trajectories, with their changes and duplicates."""
