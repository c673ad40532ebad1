"""What other ways of comparing two captures say of a recorded run whose losses are known: `make compare-tools`.

Compared are the first and the last point of the path `ingress` of `fixtures/service-chain`, a recording of real
traffic through a data plane of network namespaces. The truth is that of the senders' marks and of the drop counters of
the kernel. Each method has to say how many packets of the first point did not come to the last one. Generated kinds of
traffic (`tests/kit/kinds`), of which it is known frame by frame who sent it, stand beside it.

- by IP ID: what the tap `compare` of tshark did before it was removed, for IPv4 alone.
- by IP ID and 5-tuple: the usual join in scripts.
- by whole bytes: all bytes from the IP header on are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import polars as pl

from tests.conftest import ROOT
from tests.kit.kinds import KINDS
from tests.kit.kinds.model import analysed, record

RUN = ROOT / "fixtures" / "service-chain"
PATH, FIRST, LAST = "ingress", "uplink", "vnic"
_ETHERNET = 14
_TUPLE = ["source", "destination", "protocol", "sport", "dport"]
_MACHINE = ["10.77.0.1", "fd77::1"]
GENERATED = (
    "tenants-vlan", "generator-trex", "twice-nat-and-back", "port-of-the-client-again", "queries-new-id", "rtp-relay",
    "doubled-at-the-first-point", "uploads-by-a-proxy",
)  # fmt: skip
MARKS = ("<!-- compare-tools -->", "<!-- end of compare-tools -->")


def packets(run: Path, results: Path, points: tuple[str, str]) -> pl.DataFrame:
    """The packets of two points, with their bytes."""
    frame = pl.read_parquet(results / "observations.parquet").with_columns(pl.col(pl.Categorical).cast(pl.String))
    frame = frame.filter(pl.col("point").is_in(points))
    files = {name: (run / name).read_bytes() for name in frame["capture"].unique().to_list()}
    data = [
        files[row["capture"]][row["byte_offset"] + _ETHERNET : row["byte_offset"] + row["captured_length"]]
        for row in frame.select("capture", "byte_offset", "captured_length").to_dicts()
    ]
    return frame.with_columns(pl.Series("bytes", data, pl.Binary))


def missing(frame: pl.DataFrame, key: list[str], points: tuple[str, str]) -> int:
    """Packets of the first point for whose key the last point has none, counting equal ones."""
    sent, came = (
        frame.filter(pl.col("point") == point).group_by(key).len(name)
        for point, name in zip(points, ("sent", "came"), strict=True)
    )
    both = sent.join(came, on=key, how="left", nulls_equal=True).fill_null(0)
    return int((both["sent"].cast(pl.Int64) - both["came"].cast(pl.Int64)).clip(0).sum())


def truth_of(run: Path) -> int:
    """Packets that the first point saw, and that did not come to the last one, by marks and counters."""
    told = json.loads((run / "truth.json").read_text())
    marked = pl.read_parquet(run / "truth.parquet").filter(pl.col("path").cast(pl.String) == PATH)
    gone = marked.filter(pl.col("fate").cast(pl.String) != "delivered", pl.col("lost_stage").ne_missing(-1))
    kernel = sum(entry["packets"] for entry in told["kernel_tcp"]["lost"] if entry["path"] == PATH)
    return gone.height + kernel + int(told["identical"]["lost"])


def compared(run: Path, points: tuple[str, str], machine: list[str] | None = None) -> list[int | str]:
    """What each method says: packets of the first point that did not come to the last one."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", "pktrace", "analyze", str(run), "--output", str(results)]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        frame = packets(run, results, points)
        trajectories = pl.read_parquet(results / "trajectories.parquet")
    trajectories = trajectories.with_columns(pl.col(pl.Categorical).cast(pl.String))
    if machine is not None:
        frame, trajectories = (table.filter(pl.col("destination").is_in(machine)) for table in (frame, trajectories))
    mine = trajectories.filter(pl.col(f"{points[0]}_ns").is_not_null())
    doubtful = mine.filter(pl.col("fate").is_in(["ambiguous", "undetermined"])).height
    gone = mine.filter(~pl.col("fate").is_in(["delivered", "ambiguous", "undetermined"])).height
    return [
        missing(frame.filter(pl.col("ip_version") == 4), ["ip_id"], points),
        missing(frame, [*_TUPLE, "ip_id"], points),
        missing(frame, ["bytes"], points),
        f"{gone:,}" + (f", and {doubtful:,} in doubt" if doubtful else ""),
    ]


def lines() -> list[str]:
    """The table of docs/accuracy.md."""
    found = [
        "| traffic | truth | by IP ID | by IP ID and 5-tuple | by whole bytes | pktrace |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows: list[tuple[str, int, list[int | str]]] = [
        ("recorded run `service-chain`", truth_of(RUN), compared(RUN, (FIRST, LAST), _MACHINE))
    ]
    for name in GENERATED:
        with tempfile.TemporaryDirectory() as folder:
            kind = KINDS[name]
            recorded = record(kind, 2000, 1, 0.02)
            analysed(Path(folder), kind, recorded)
            said = compared(Path(folder), (kind.points[0], kind.points[-1]))
            rows.append((f"generated, {name}", recorded.lost, said))
    for name, truth, said in rows:
        cells = [f"{number:,}" if isinstance(number, int) else number for number in said]
        found.append(f"| {name} | {truth:,} | {' | '.join(cells)} |")
    return found


@click.command()
@click.option("--write", "write_to", type=click.Path(path_type=Path), help="Put the table into this page.")
def main(write_to: Path | None) -> None:
    """Print the table, or put it between its marks."""
    table = "\n".join(lines())
    if write_to is None:
        click.echo(table)
        return
    text = write_to.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    write_to.write_text(f"{text[:begin]}{MARKS[0]}\n\n{table}\n\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
