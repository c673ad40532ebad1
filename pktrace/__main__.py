"""`python -m pktrace`: the same as the command `pktrace`."""

from pktrace.cli.main import run

run()
