"""The slow, obvious analyser: plain Python, one packet at a time, written from the design and not from
`pktrace/`.

It is the oracle for the fast analyser. Where it is slow it is slow on purpose: keys are actual bytes, loops
are loops.
"""

from tests.reference.analyze import Results, analyze

__all__ = ["Results", "analyze"]
