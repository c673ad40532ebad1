"""Rules: the expected treatment of each packet by the filter."""
