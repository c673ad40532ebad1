"""How much of a capture is read: by what it takes on disk, and what the caller accepts."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pytest

from pktrace import limits
from pktrace.analysis.analysis import Analysis
from pktrace.capture.files import CaptureReader
from pktrace.capture.index import MOST_INTERFACES
from pktrace.errors import EXIT_USAGE, CaptureFileError
from pktrace.ledger import Ledger
from pktrace.limits import Budget, LimitError, Limits
from pktrace.observations.export import ObservationStream
from pktrace.report.terminal import ledger_lines
from tests.conftest import CommandLine
from tests.fuzz.hostile_files import EPB, IDB, SHB
from tests.kit.pcap_files import Interface, Record, block, interface_block, option, packet_block, pcap_bytes

PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


def _packed(path: Path, content: bytes, codec: str = "zstd") -> str:
    path.write_bytes(bytes(pa.compress(content, codec=codec, asbytes=True)))
    return str(path)


def _rows(*paths: str, **accepted: int) -> int:
    return sum(table.num_rows for table in ObservationStream(paths, limits=Limits(**accepted)).tables())


def test_a_small_file_holds_only_so_many_packets(tmp_path: Path) -> None:
    """Before, 2 kB were 5 million rows; a limit that the caller gives is the one that counts."""
    bomb = _packed(tmp_path / "bomb", PCAP + bytes(16 * 5_000_000))
    with pytest.raises(CaptureFileError, match=r"holds more than 4,\d+,\d+ packets in .*--max-packets N") as caught:
        _rows(bomb)
    assert caught.value.exit_code == EXIT_USAGE
    assert _rows(bomb, max_packets=5_000_000) == 5_000_000
    with pytest.raises(CaptureFileError, match="more than 100 packets"):
        _rows(bomb, max_packets=100)


def test_a_small_file_holds_only_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    skipped = struct.pack("<II", 0x0BADCAFE, 0xFFFFFFFC)
    bomb = _packed(tmp_path / "bomb", SHB + IDB + skipped + bytes(30 << 20))
    with pytest.raises(CaptureFileError, match=r"packed into .*--max-bytes SIZE"):
        _rows(bomb)
    assert _rows(bomb, max_bytes=31 << 20) == 0


def test_all_files_of_a_call_together_have_a_limit(tmp_path: Path) -> None:
    one = pcap_bytes([Record(10**18 + n, bytes(60)) for n in range(600)])
    files = []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.pcap"))
        Path(files[-1]).write_bytes(one)
    assert _rows(*files, max_packets=1200) == 1200
    with pytest.raises(LimitError, match="1,000 packets, the limit for all files of a call"):
        _rows(*files, max_packets=1000)
    with pytest.raises(LimitError, match=r"the limit for all files of a call.*--max-bytes"):
        _rows(*files, max_bytes=len(one) + 1)


def test_holes_are_no_bytes(tmp_path: Path) -> None:
    """Before, 1 TiB of holes was read, and hashed, to its end."""
    path = tmp_path / "sparse"
    path.write_bytes(PCAP)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CaptureFileError, match="claims 1 TiB and takes 4 KiB on disk"):
        _rows(str(path))
    with pytest.raises(CaptureFileError, match="claims"):
        Budget([str(path)], Limits(max_bytes=1 << 39)).share(str(path), "sparse")


def test_a_large_file_of_real_bytes_has_no_small_limit(tmp_path: Path) -> None:
    """100 GB of capture on disk may hold all that they hold."""
    path = tmp_path / "large"
    path.write_bytes(PCAP + bytes(8 << 20))
    share = Budget([str(path)]).share(str(path), "large")
    share.take(8 << 20, 8 << 30, 30_000_000)


@pytest.mark.parametrize("option", ["--max-bytes", "--max-packets", "--max-memory"])
@pytest.mark.parametrize("wrong", ["0", "many", "-3"])
def test_a_limit_has_to_be_a_size(pktrace: CommandLine, option: str, wrong: str) -> None:
    done = pktrace("analyze", "fixtures/service-chain", option, wrong)
    assert done.returncode == EXIT_USAGE
    assert option in done.stderr


def test_the_last_statistics_of_an_interface_count(tmp_path: Path) -> None:
    """They are kept by the scanner now: what a block does not say, an earlier one of the interface has said."""
    moment = struct.pack("<II", 10**9 >> 32, 10**9 & 0xFFFFFFFF)
    later = struct.pack("<II", (2 * 10**9) >> 32, (2 * 10**9) & 0xFFFFFFFF)
    content = SHB + interface_block(Interface(name="a")) + interface_block(Interface(name="b", tsresol=6))
    content += block(5, struct.pack("<III", 0, 0, 0) + option(2, moment) + option(4, struct.pack("<Q", 5)))
    content += block(
        5, struct.pack("<III", 0, 0, 0) + option(4, struct.pack("<Q", 9)) + option(5, struct.pack("<Q", 1))
    )
    content += block(5, struct.pack("<III", 7, 0, 0) + option(4, struct.pack("<Q", 1)))  # there is no interface 7
    content += SHB + interface_block(Interface(name="c", tsresol=6))
    content += block(5, struct.pack("<III", 0, 0, 0) + option(3, later) + option(7, struct.pack("<Q", 1 << 63)))
    path = tmp_path / "statistics.pcapng"
    path.write_bytes(content)
    reader = CaptureReader(path, "statistics")
    list(reader.batches())
    found = [(one.name, one.start_ns, one.end_ns, one.received, one.dropped) for one in reader.interfaces]
    assert found == [
        ("a", 10**9, None, 9, 1),
        ("b", None, None, None, None),
        ("c", None, 2 * 10**9 * 1000, None, 1 << 62),
    ]


def test_a_file_describes_only_so_many_interfaces(tmp_path: Path) -> None:
    """Before, a million of them took 24 s and 360 MiB, and 1 GiB of them 15 GB."""
    path = tmp_path / "many.pcapng"
    path.write_bytes(SHB + IDB * MOST_INTERFACES + EPB)
    assert _rows(str(path)) == 1
    path.write_bytes(SHB + IDB * (MOST_INTERFACES + 1) + EPB)
    with pytest.raises(CaptureFileError, match=r"byte \d+: describes more than 131,072 interfaces"):
        _rows(str(path))


def test_packets_of_later_sections_have_the_times_of_their_own_interface(tmp_path: Path) -> None:
    """The table of times is one for all sections; here the second section has other units."""
    path = tmp_path / "sections.pcapng"
    micro = Interface(tsresol=6)
    path.write_bytes(SHB + IDB + EPB + SHB + interface_block(micro) + packet_block(Record(10**18, bytes(60)), micro))
    reader = CaptureReader(path, "sections")
    times = [time for batch in reader.batches() for time in batch.packets["ts"].tolist()]
    assert times == [10**18, 10**18]


def test_the_terminal_shows_some_lines_of_each_counter() -> None:
    """Before, a run of a thousand damaged files printed a thousand lines."""
    ledger = Ledger()
    for number in range(1000):
        ledger.add("capture_cut", capture=f"{number}.pcap")
    ledger.add("capture_drops", 7, point="a")
    lines = [line.plain for line in ledger_lines(cast(Analysis, SimpleNamespace(ledger=ledger)))]
    assert len(lines) == 22
    assert "capture_cut: 980 more in ledger.parquet" in lines
    assert lines[-1].startswith("capture_drops: 7 at a.")


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "named.pcapng"
    path.write_bytes(SHB + interface_block(Interface(name="n" * 60_000)) + EPB)
    reader = CaptureReader(path, "named")
    list(reader.batches())
    name = reader.interfaces[0].name
    assert name is not None
    assert len(name) < 1000
    assert name.endswith("(60000 characters)")
