"""Tests of pktrace; a package so that tests can share the kit and the reference."""
