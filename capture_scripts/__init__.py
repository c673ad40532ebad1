"""The laboratory and the recorder: namespaces, rules, a tcpdump per point, traffic with its own truth.

Nothing here imports ``pktrace`` and nothing in ``pktrace`` imports this package: what passes between them
is a run folder on disk. Every command needs root, because it makes network namespaces and opens packet
sockets.
"""
