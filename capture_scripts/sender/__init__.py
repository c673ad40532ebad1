"""Packets tailored to a rule file, their plan, and the comparison of a recording with that plan."""
