"""The data plane's own counters in context/, in the forms in which people save them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pktrace.run.context import read_context
from pktrace.run.model import Run


def counter_packets(folder: Path) -> dict[str, int]:
    return read_context(Run(folder, "", "", (), (), (), 1, None, "")).counters


def nft(**packets: int) -> str:
    rows = [{"counter": {"family": "netdev", "table": "t", "name": name, "packets": n}} for name, n in packets.items()]
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *rows]})


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return tmp_path / "context"


def test_without_context_nothing_is_known(tmp_path: Path) -> None:
    assert counter_packets(tmp_path) == {}


@pytest.mark.parametrize(
    "names", [("counters-before.json", "counters-after.json"), ("nft_before.txt", "nft_after.txt")]
)
def test_what_was_counted_before_is_subtracted(context: Path, names: tuple[str, str]) -> None:
    (context / names[0]).write_text(nft(in1_r1=5, in1_r2=7))
    (context / names[1]).write_text(nft(in1_r1=12, in1_r2=3))
    assert counter_packets(context.parent) == {"in1_r1": 7, "in1_r2": 3}  # in1_r2 was reset in between


def test_the_text_of_a_rule_set(context: Path) -> None:
    (context / "ruleset-after.nft").write_text(
        "table netdev agent1 {\n\tcounter in1_r1 {\n\t\tpackets 72 bytes 4000\n\t}\n"
        '\tcounter in1_r2 { packets 3 bytes 200 }\n\tchain c { udp dport 53 counter name "in1_r2" drop }\n}\n'
    )
    assert counter_packets(context.parent) == {"in1_r1": 72, "in1_r2": 3}


def test_a_list_of_counters_is_believed_before_a_rule_set(context: Path) -> None:
    (context / "counters-after.json").write_text(nft(a=10))
    (context / "ruleset-after.json").write_text(nft(a=9))
    assert counter_packets(context.parent) == {"a": 10}


def test_plain_numbers_only_where_the_name_says_counters(context: Path) -> None:
    (context / "counters.json").write_text('{"a": 4, "b": {"packets": 6}, "c": "x", "d": -1, "e": true}')
    (context / "sysctl.json").write_text('{"net.core.rmem_max": 212992}')
    assert counter_packets(context.parent) == {"a": 4, "b": 6}


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{}", b'{"nftables": []}', b'{"nftables": [1, null]}']
)
def test_anything_else_is_no_counter(context: Path, content: bytes) -> None:
    (context / "counters-after.json").write_bytes(content)
    assert counter_packets(context.parent) == {}
