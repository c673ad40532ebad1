"""Further captures made from those at hand, for what other captures may hold: `python -m tests.corpus FOLDER --more`.

All packets of all readable captures go into one file, with an interface per capture, since starting tshark once per
file takes most of the time. From it come files that are cut at short lengths, said to be of other link types, and with
random bytes changed; from single captures come other file formats, comments and secrets, damaged and compressed files.
"""

from __future__ import annotations

import gzip
import random
import subprocess
from pathlib import Path

import pyarrow as pa

from pktrace.errors import PktraceError
from pktrace.observations.observe import observe_files
from pktrace.observations.table import observations_table
from tests.corpus.compare import Difference, Outcome
from tests.corpus.sweeps import write_sweeps
from tests.corpus.tshark import PCAP

SNAP_LENGTHS = (1, 8, 14, 20, 34, 40, 48, 54, 60, 70, 82, 100)
LINK_TYPES = (
    *("null", "loop", "rawip", "rawip4", "rawip6", "ppp", "ppp-with-direction", "pppoes", "linux-sll", "linux-sll2"),
    *("ieee-802-11", "ieee-802-11-radiotap", "ieee-802-11-prism", "ieee-802-11-avs"),
    *("ether", "slip", "frelay", "chdlc", "fddi", "user0"),
)
# Not nokiapcap, rh6_1pcap and suse6_3pcap: they have the magic number of another format, Wireshark guesses them.
FORMATS = ("pcap", "nsecpcap", "modpcap", "pcapng", "snoop")
CHANGED = ((0.002, 1), (0.01, 2), (0.03, 3), (0.1, 4))
_SAMPLE = 40  # captures that are written in every format
_FLIPS = 8
_TOGETHER = 400  # captures that are merged at once; each is open for the time


def make(captures: list[Path], listed: set[str], folder: Path) -> list[Path]:
    """Write the generated captures below the folder, without what is in the listed files, and return them."""
    captures = [path for path in captures if path.name not in listed]
    folder.mkdir(parents=True, exist_ok=True)
    merged = _merged([path for path in captures if _readable(path)], folder)
    made = [merged]
    for length in SNAP_LENGTHS:
        made += _edited(merged, folder / f"cut-at-{length}.pcapng", "-s", str(length))
    for link_type in LINK_TYPES:
        made += _edited(merged, folder / f"as-{link_type}.pcapng", "-T", link_type)
    for share, seed in CHANGED:
        changed = folder / f"changed-{share}.pcapng"
        made += _edited(merged, changed, "-E", str(share), "--seed", str(seed), "-o", "12")
        made += _edited(changed, folder / f"changed-{share}-cut.pcapng", "-s", "90")
    made += write_sweeps(folder)
    for path in captures[:: max(1, len(captures) // _SAMPLE)]:
        for kind in FORMATS:
            made += _edited(path, folder / f"{path.stem}.{kind}", "-F", kind)
        key_log = folder / "keys.txt"
        key_log.write_text("CLIENT_RANDOM " + "00" * 32 + " " + "00" * 48 + "\n")
        made += _edited(
            path, folder / f"{path.stem}.secrets", "--inject-secrets", f"tls,{key_log}", "-a", "1:a comment"
        )
        key_log.unlink()
        made += _damaged(path, folder)
    return made


def _damaged(path: Path, folder: Path) -> list[Path]:
    """A capture that ends early, and with single bits of its file header, block headers and options turned around."""
    data = path.read_bytes()
    choose = random.Random(len(data))
    variants = {f"cut-{at}": data[:at] for at in (len(data) - 1, len(data) - 5, len(data) // 2, len(data) // 3)}
    places = choose.sample(range(len(data)), min(_FLIPS, len(data))) + list(range(0, min(len(data), 160), 4))
    if data[:4].hex() in PCAP:
        # By the lengths of the first records Wireshark guesses whether they have another layout: not behind the header.
        places = list(range(min(24, len(data))))
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << choose.randrange(8)
        variants[f"flip-{at}"] = bytes(flipped)
    made = []
    for name, content in variants.items():
        made.append(folder / f"{path.parent.parent.name}-{path.stem}.{name}")
        made[-1].write_bytes(content)
    return made


def _readable(path: Path) -> bool:
    return subprocess.run(["capinfos", "-c", str(path)], capture_output=True, check=False).returncode == 0


def _merged(captures: list[Path], folder: Path) -> Path:
    parts = []
    for start in range(0, len(captures), _TOGETHER):
        parts.append(folder / f"part-{start}.pcapng")
        names = [str(path) for path in captures[start : start + _TOGETHER]]
        subprocess.run(
            ["mergecap", "-a", "-F", "pcapng", "-w", str(parts[-1]), *names], check=True, capture_output=True
        )
    merged = folder / "merged.pcapng"
    subprocess.run(["mergecap", "-a", "-w", str(merged), *map(str, parts)], check=True, capture_output=True)
    for part in parts:
        part.unlink()
    return merged


def _edited(source: Path, target: Path, *options: str) -> list[Path]:
    """The file that editcap writes; none where it cannot, for instance where a format does not hold a link type."""
    done = subprocess.run(["editcap", *options, str(source), str(target)], capture_output=True, check=False)
    if done.returncode:
        target.unlink(missing_ok=True)
        return []
    return [target]


def compressed_alike(captures: list[Path], folder: Path) -> list[Outcome]:
    """Whether captures compressed with gzip (one member, and two), zstd and lz4 give the same table as they are."""
    outcomes = []
    for path in captures[:: max(1, len(captures) // _SAMPLE)]:
        data = path.read_bytes()
        packed = {
            "gz": gzip.compress(data),
            "two.gz": gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
            "zst": pa.Codec("zstd").compress(data, asbytes=True),
            "lz4": pa.Codec("lz4").compress(data, asbytes=True),
        }
        plain = _table(path)
        for suffix, content in packed.items():
            copy = folder / f"{path.name}.{suffix}"
            copy.write_bytes(content)
            outcome = Outcome(copy.name)
            if not same_table(plain, _table(copy)):
                outcome.differences.append(Difference(0, "compressed", "another table", "the same table"))
            outcomes.append(outcome)
    return outcomes


def same_table(one: pa.Table | str, other: pa.Table | str) -> bool:
    """Equal tables, or the same error."""
    return one == other if isinstance(one, str) or isinstance(other, str) else one.equals(other)


def _table(path: Path) -> pa.Table | str:
    try:
        table = observations_table(observe_files([str(path)]))
    except PktraceError as error:
        return type(error).__name__
    return table.drop_columns(["capture"]).unify_dictionaries()
