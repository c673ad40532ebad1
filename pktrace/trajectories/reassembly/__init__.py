"""Packets that were split or merged on the way, by byte ranges."""
