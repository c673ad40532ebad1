"""Forged matches and floods: packets that are made to look like others to a hash, or to share one place of a table."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pktrace.decode import identity
from pktrace.decode.identity import mixed
from pktrace.observations.observe import observe_run
from pktrace.observations.stream import row_batches
from pktrace.observations.table import observations_table
from pktrace.run.runfile import load_run
from pktrace.trajectories.follow import follow_packets
from tests.hostile.attack import Attack
from tests.kit import floods, forged_runs, forgery

_POINTS = ("a", "b")
_WARM = 2_000  # packets of a first run, which compiles
_ROUNDS = 5
_MOST_TIMES_AS_LONG = 2.0
_GRACE_S = 0.05  # of processor time, which is below what the clock and the collector of garbage make of it


def _of_columns(folder: Path, number: int) -> str | None:
    """Two rows of columns with one hash, as flows, packet ids and remains once had it."""
    rng = random.Random(number)
    width = rng.randrange(2, 13)
    row = [rng.randrange(1 << 64) for _ in range(width)]
    other = [rng.randrange(1 << 64) for _ in range(width)]
    at = rng.randrange(width)
    other[at] = forgery.column_for(forgery.column_hash(*row), tuple(other[:at]), tuple(other[at + 1 :]))
    if forgery.column_hash(*other) != forgery.column_hash(*row):
        return "the attack is none: the two rows do not have one hash"
    found = mixed(*(np.array(pair, np.uint64) for pair in zip(row, other, strict=True)))
    return None if found[0] != found[1] else f"two different rows of {width} columns are taken for one"


def _run_of(folder: Path, frames: np.ndarray) -> Path:  # type: ignore[type-arg]
    folder.mkdir()
    lines = ['schema = 1\nname = "flood"']
    for number, point in enumerate(_POINTS):
        seen = frames if number == 0 else frames[np.arange(len(frames)) % 100 != 7]
        (folder / f"{point}.pcap").write_bytes(floods.capture(seen, floods.FIRST_NS + 50_000 * number))
        lines.append(f'[[point]]\nname = "{point}"\ncaptures = ["{point}.pcap"]')
    lines.append(f'[[path]]\nname = "p"\npoints = {list(_POINTS)}'.replace("'", '"'))
    (folder / "run.toml").write_text("\n".join(lines))
    return folder


def _seconds(folder: Path) -> float:
    """Processor time of reading, following, and the table of observations."""
    begun = time.process_time()
    observations = observe_run(load_run(folder))
    followed = follow_packets(observations)
    observations_table(observations, followed.owner)
    return time.process_time() - begun


def _seconds_to_read(folder: Path) -> float:
    """Processor time of decoding alone."""
    begun = time.process_time()
    for _ in row_batches(folder / f"{_POINTS[0]}.pcap"):
        pass
    return time.process_time() - begun


def _flood(
    crafted: floods.Maker, beside: floods.Maker, packets: int, seconds: Callable[[Path], float] = _seconds
) -> Callable[[Path, int], str | None]:
    """An attempt: as many packets of either kind, in turns; the least of some rounds counts."""

    def attempt(folder: Path, number: int) -> str | None:
        count = packets if number else packets // 10
        makers = {"crafted": crafted, "beside": beside}
        for name, make in makers.items():
            seconds(_run_of(folder / f"warm-{name}", make(_WARM)))
        runs = {name: _run_of(folder / name, make(count)) for name, make in makers.items()}
        taken = {name: [seconds(run)] for name, run in runs.items()}
        for _ in range(_ROUNDS - 1):
            least = {name: min(times) for name, times in taken.items()}
            if least["crafted"] <= _MOST_TIMES_AS_LONG * least["beside"] + _GRACE_S:
                return None
            for name, run in runs.items():
                taken[name].append(seconds(run))
        return f"{count} crafted packets take {least['crafted']:.2f} s, as many others {least['beside']:.2f} s"

    return attempt


def _key_in_the_cache(folder: Path, number: int) -> str | None:
    """The key of the process is looked for in the folder of compiled kernels."""
    from pktrace import compiled

    if compiled._FOLDER is None:
        return None
    key = identity.secret().tobytes()
    words = [key[at : at + 8] for at in range(0, len(key), 8)]
    for file in sorted(compiled._FOLDER.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            if any(word in data for word in words[:: 1 + len(words) // 64]):
                return f"{file.name} holds a word of the key"
    return None


_MANY = 200_000

ATTACKS = (
    Attack(
        "forged-digest",
        "A packet of another host with the digest of a lost packet comes by behind, before or at any further point, to "
        "have the lost one taken for delivered.",
        forged_runs.forged_digest,
        fast=len(forged_runs.SHAPES),
        full=200,
    ),
    Attack(
        "forged-violation",
        "A packet of another host with the digest of one that the filter dropped comes by behind the filter, to make a "
        "correct drop a violated rule.",
        forged_runs.forged_violation,
        fast=4,
        full=100,
    ),
    Attack(
        "forged-content",
        "A host sends other payloads with the hashes of a lost flow's payloads, to be taken for its translated form.",
        forged_runs.forged_content,
        fast=4,
        full=100,
    ),
    Attack(
        "forged-flow",
        "A host whose address gives its flow the hash of a lost TCP flow sends the same numbers, to be taken for that "
        "flow with changed payloads.",
        forged_runs.forged_flow,
        fast=4,
        full=100,
    ),
    Attack(
        "forged-header",
        "A packet that the snap length cut has the hash of other packets' network header, to take the payload out of "
        "what these are compared by.",
        forged_runs.forged_header,
        fast=4,
        full=100,
    ),
    Attack(
        "forged-columns",
        "Rows of two to twelve columns, as flows and keys are hashed, are given the hash of another row.",
        _of_columns,
        fast=200,
        full=5_000,
    ),
    Attack(
        "key-in-the-cache",
        "The secret of the hashes is looked for in the compiled kernels on the disk.",
        _key_in_the_cache,
    ),
    Attack(
        "flood-of-keys",
        "Packets whose digests shared one place of the table that numbers packets.",
        _flood(floods.one_place_digests, floods.harmless, _MANY),
        fast=1,
        full=3,
    ),
    Attack(
        "flood-of-addresses",
        "Packets from IPv6 addresses that shared one place of the table of addresses.",
        _flood(floods.one_place_addresses, floods.many_addresses, _MANY),
        fast=1,
        full=3,
    ),
    Attack(
        "flood-of-tunnels",
        "Tunnels from IPv6 addresses that shared one place of the table of tunnels.",
        _flood(floods.one_place_tunnels, floods.many_tunnels, _MANY, _seconds_to_read),
        fast=1,
        full=3,
    ),
    Attack(
        "flood-of-one-packet",
        "The same packet, again and again.",
        _flood(floods.identical, floods.harmless, _MANY),
        fast=1,
        full=3,
    ),
)
