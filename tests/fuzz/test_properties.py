"""Whatever the bytes are, reading them gives a table or CaptureFileError. `make fuzz` runs these for longer, guided by
coverage (run.py)."""

from __future__ import annotations

import os
import struct

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.blocks import damaged_streams, pcap_files, pcapng_files
from tests.fuzz.frames import LINK_TYPES, frames
from tests.fuzz.outcome import Reader, same_rows
from tests.fuzz.surroundings import complaint_about_surroundings, every_cut

EXAMPLES = int(os.environ.get("PKTRACE_FUZZ_EXAMPLES", "250"))
READER = Reader()
# The first example compiles kernels; and a nearly valid frame takes many draws.
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
MAGICS = (
    b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x34\xcd\xb2\xa1",
    b"\xa1\xb2\xcd\x34", b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a", b"\x0a\x0d\x0d\x0a\0\0\0\x1c\x1a\x2b\x3c\x4d",
    b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"",
)  # fmt: skip


def one_packet(link_type: int, data: bytes, length: int | None = None) -> bytes:
    """A pcap file of one packet."""
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link_type)
    return head + struct.pack("<IIII", 1, 2, len(data), len(data) if length is None else length) + data


@FUZZ
@given(st.sampled_from(MAGICS), st.binary(max_size=400))
@example(b"", b"")
def test_any_bytes(magic: bytes, rest: bytes) -> None:
    READER.read(magic + rest)


@FUZZ
@given(st.sampled_from(LINK_TYPES), st.binary(max_size=200), st.integers(0, 300))
def test_any_packet(link_type: int, data: bytes, length: int) -> None:
    assert READER.read(one_packet(link_type, data, length)).frames == 1


@FUZZ
@given(frames())
def test_a_row_depends_on_the_bytes_of_its_packet_only(frame: tuple[int, bytes]) -> None:
    link_type, data = frame
    assert complaint_about_surroundings(READER, link_type, every_cut(data), len(data)) is None


@FUZZ
@given(pcapng_files())
def test_nearly_valid_blocks(content: bytes) -> None:
    assert READER.read(content).error is None


@FUZZ
@given(pcap_files())
def test_nearly_valid_records(content: bytes) -> None:
    READER.read(content)


@FUZZ
@given(damaged_streams())
def test_damaged_compressed_streams(content: bytes) -> None:
    READER.read(content)


@FUZZ
@given(st.one_of(pcapng_files(), pcap_files(), damaged_streams()))
def test_the_stream_holds_the_same_table(content: bytes) -> None:
    whole = READER.read(content).table
    streamed = READER.read_as_stream(content)
    assert (whole is None) == (streamed is None)
    if whole is not None:
        assert streamed.num_rows == whole.num_rows
        assert same_rows(whole, streamed, whole.num_rows) is None
