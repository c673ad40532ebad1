"""How right the analysis is on generated runs whose truth is known: `python -m tests.accuracy`."""
