"""Verdicts: the conclusion about each packet at each stage, its fate, and its treatment by the filter."""
