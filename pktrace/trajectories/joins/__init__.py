"""Joins of sightings, packet by packet, by rules that run from much evidence to little."""
