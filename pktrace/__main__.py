"""`python -m pktrace` is the same as the command `pktrace`."""

from pktrace.cli.main import run

run()
