"""Capture files: bytes in, packet index out. One module per format; no decoding of packets here."""
