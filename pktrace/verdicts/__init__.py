"""Verdicts: what is concluded about each packet at each stage, its fate, and whether the filter was right."""
