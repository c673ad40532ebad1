"""Public multi-point captures with known answers; they run where PKTRACE_CORPUS names the folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.run.runfile import load_run

CORPUS = Path(os.environ.get("PKTRACE_CORPUS", "absent")) / "multipoint"

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="PKTRACE_CORPUS names no folder with public captures")


def analysis_of(tmp_path: Path, first: str, second: str, paths: str) -> Analysis:
    points = ""
    for name, capture in (("a", first), ("b", second)):
        (tmp_path / f"{name}.pcap").symlink_to((CORPUS / capture).resolve())
        points += f'[[point]]\nname = "{name}"\ncaptures = ["{name}.pcap"]\n'
    (tmp_path / "run.toml").write_text(f'schema = 1\nname = "public"\n{points}{paths}')
    return analyze_run(load_run(tmp_path, trust=True))


BOTH_WAYS = """
[[path]]
name = "there"
points = ["a", "b"]
match = { source = ["172.16.0.1", "172.16.1.1"] }
[[path]]
name = "back"
points = ["b", "a"]
"""
ONE_WAY = '[[path]]\nname = "there"\npoints = ["a", "b"]\n'


@pytest.mark.parametrize(("link", "common"), [("eth0", 3971), ("eth1", 3863)])
def test_two_links_lose_nothing(tmp_path: Path, link: str, common: int) -> None:
    analysis = analysis_of(tmp_path, f"two-links/h1-{link}.pcap", f"two-links/sv_mp1-{link}.pcap", BOTH_WAYS)
    both = (analysis.trajectories.seen[:, :2] >= 0).all(axis=1)
    assert int(both.sum()) == common
    assert not analysis.verdicts.packets_with("lost").any()
    assert min(int(latency.values[0]) for latency in analysis.latencies) > 10_000_000


@pytest.mark.parametrize(("link", "common"), [("eth0", 3971), ("eth1", 3863)])
def test_two_links_lose_nothing_on_a_path_for_both_directions(tmp_path: Path, link: str, common: int) -> None:
    analysis = analysis_of(tmp_path, f"two-links/h1-{link}.pcap", f"two-links/sv_mp1-{link}.pcap", ONE_WAY)
    assert len(analysis.trajectories) == common
    assert (analysis.trajectories.seen[:, :2] >= 0).all()
    assert analysis.verdicts.packets_with("delivered").all()
    assert all(int(latency.values[0]) > 10_000_000 for latency in analysis.latencies)


def test_nothing_matches_across_the_links(tmp_path: Path) -> None:
    """2,815 packets have equal payloads on both links; their headers differ."""
    analysis = analysis_of(tmp_path, "two-links/h1-eth0.pcap", "two-links/sv_mp1-eth1.pcap", ONE_WAY)
    assert not (analysis.trajectories.seen[:, :2] >= 0).all(axis=1).any()


def test_encrypted_packets_match_nothing(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path, "tunnel-proxy/client.pcap", "tunnel-proxy/proxy_eth0.pcap", ONE_WAY)
    assert not (analysis.trajectories.seen[:, :2] >= 0).all(axis=1).any()


PINGS = """
[[path]]
name = "there"
points = ["a", "b"]
match = { source = "194.166.100.10", destination = "194.166.100.3" }
[[path]]
name = "back"
points = ["b", "a"]
match = { source = "194.166.100.3", destination = "194.166.100.10" }
"""
ALL_OF_IT = """
[[path]]
name = "there"
points = ["a", "b"]
match = { source = ["194.166.100.10", "fe80::3055:e7ff:fed1:837b"] }
[[path]]
name = "back"
points = ["b", "a"]
"""


@pytest.mark.parametrize(
    ("first", "second", "there_us", "back_us"),
    [("client", "proxy_eth1", (130, 476), (119, 340)), ("proxy_eth1", "server", (2, 22), (0, 14))],
)
def test_pings_through_an_encrypted_tunnel(
    tmp_path: Path, first: str, second: str, there_us: tuple[int, int], back_us: tuple[int, int]
) -> None:
    analysis = analysis_of(tmp_path, f"tunnel-proxy/{first}.pcap", f"tunnel-proxy/{second}.pcap", PINGS)
    assert (analysis.trajectories.seen[:, :2] >= 0).all()
    assert len(analysis.trajectories) == 100
    assert not analysis.verdicts.packets_with("lost").any()
    for latency, (least, most) in zip(
        (analysis.latencies[0], analysis.latencies[-1]), (there_us, back_us), strict=True
    ):
        assert least * 1000 <= int(latency.values.min())
        assert int(latency.values.max()) <= most * 1000


@pytest.mark.parametrize(("first", "second", "common"), [("client", "proxy_eth1", 124), ("proxy_eth1", "server", 119)])
def test_multicast_through_an_encrypted_tunnel(tmp_path: Path, first: str, second: str, common: int) -> None:
    """All IP frames that both have, but one of the unspecified address: that goes the other way, which a match on
    addresses cannot say (125 and 119 frames are the same bytes, and ARP is not followed). The tunnel held some of
    them back for half a second."""
    analysis = analysis_of(tmp_path, f"tunnel-proxy/{first}.pcap", f"tunnel-proxy/{second}.pcap", ALL_OF_IT)
    assert int((analysis.trajectories.seen[:, :2] >= 0).all(axis=1).sum()) == common


@pytest.mark.parametrize(("first", "second", "common"), [("1", "2", 152), ("2", "1", 152), ("1", "3", 72)])
def test_outside_the_common_window_nothing_is_lost(tmp_path: Path, first: str, second: str, common: int) -> None:
    names = [f"overlapping-windows/simul{number}.pcap" for number in (first, second)]
    analysis = analysis_of(tmp_path, *names, ONE_WAY)
    both = (analysis.trajectories.seen[:, :2] >= 0).all(axis=1)
    assert int(both.sum()) == common
    assert not analysis.verdicts.packets_with("lost").any()
    assert analysis.latencies[0].values.tolist() == [0] * common
