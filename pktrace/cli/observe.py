"""pktrace observe: an observations table from any captures, without a run."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pktrace.cli.limits import limit_options, limits_of, watching
from pktrace.cli.narration import say_why, show, tell, with_kernels
from pktrace.errors import EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE
from pktrace.report.words import plural
from pktrace.visible import json_text


@click.command(epilog="Example: pktrace observe uplink.pcapng vnic.pcap -o observations.parquet")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o",
    "--output",
    default="observations.parquet",
    show_default=True,
    metavar="FILE",
    help="The Parquet file to write.",
)
@click.option(
    "--details",
    "with_details",
    is_flag=True,
    help="Add columns: TCP options, ESP/AH, quoted packets of ICMP errors, options of the file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print counts and the ledger as JSON.")
@limit_options
@watching
def observe(files: tuple[str, ...], output: str, with_details: bool, as_json: bool, **limits: int | None) -> int:
    """Decode captures into an observations table: a row per packet in file order, unknown packets with null fields."""
    from pktrace.memory import step
    from pktrace.observations.export import ObservationStream
    from pktrace.report.results import input_metadata, write_observations

    if not output or any(os.path.realpath(output) == os.path.realpath(file) for file in files):
        raise click.BadParameter("must be a file of its own, not one of the captures", param_hint="--output")
    stream = ObservationStream(files, with_details, limits_of(limits))
    step("decoding the captures")
    with_kernels(
        lambda: write_observations(
            stream.tables(), Path(output), lambda: input_metadata(stream.paths, stream.sha256), with_details
        )
    )
    ledger = [
        {
            "counter": counter.name,
            "capture": capture,
            "severity": counter.severity,
            "count": count,
            "sentence": counter.sentence,
        }
        for counter, _, capture, count in stream.ledger.rows()
    ]
    if as_json:
        document = {"packets": stream.packets, "output": output, "ledger": ledger}
        show(lambda: click.echo(json_text(document)))
    else:
        for entry in ledger:
            tell(f"{entry['counter']}: {entry['count']:,} in {entry['capture']}. {entry['sentence']}")
        tell(f"{plural(stream.packets, 'packet')} of {plural(len(files), 'file')} in {output}")
    from pktrace.analysis.criteria import Outcome, damage_of

    reasons = damage_of(stream.ledger, [None]) if stream.damaged else ()
    return say_why("observe", Outcome(EXIT_DAMAGED_OR_UNDECIDED if reasons else EXIT_DONE, reasons))
