"""The laboratory and the recorder: namespaces, rules, a tcpdump per point, traffic with its own truth.

This package does not import ``pktrace``, and ``pktrace`` does not import it: they meet in a run folder on disk. Every
command needs root, because it makes network namespaces and opens packet sockets.

The commands lie at the top: ``lab``, ``record``, ``send`` and ``marker_run.py``. The rooms below them are ``sender``,
``fixture``, ``testbed``, and ``recorder`` beside ``forwarder``. The ground has the modules that several rooms need.
"""
