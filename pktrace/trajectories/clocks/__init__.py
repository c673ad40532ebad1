"""The relation of the clocks of the points: offsets, steps and drift."""
