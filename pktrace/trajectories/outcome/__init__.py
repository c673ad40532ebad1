"""From the last round of following to trajectories, and what they show of changes and duplicates."""
