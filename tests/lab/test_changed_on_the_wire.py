"""Following on recordings of real kernels: packets that gateways, tunnels and offloads change between the points.

Each test sends marked traffic through two gateways, records at both ends and between, and holds the analysis against
what does not depend on it: the marks in the captures, read by dpkt, and the counters of nft, tc and the wire.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandLine
from tests.lab.gateways import CLIENTS, GW1, GW2, POINTS, SERVER, Gateways, gateways, missing_tools, paths_file
from tests.lab.told_apart import Truth

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
    pytest.mark.skipif(bool(missing_tools()), reason=f"needs {', '.join(missing_tools())}"),
]

NO_LOSS: Mapping[tuple[str, int], int] = {}


def udp_flows(count: int = 6, packets: int = 120, **others: Any) -> list[dict[str, Any]]:
    """Flows of several hosts, whose source ports are not all different."""
    flow = {"to": [SERVER, 5001], "count": packets, "sizes": [40, 200, 1200], "gap_us": 900, **others}
    return [{"flow": n, "from": [CLIENTS[n % 3], 4000 + n // 3], **flow} for n in range(count)]


def tcp_flows(count: int = 6, size: int = 60_000, **others: Any) -> list[dict[str, Any]]:
    flow = {"to": [SERVER, 6001], "there": size, "back": size, **others}
    return [{"flow": 16 + n, "from": [CLIENTS[n % 3], 0], **flow} for n in range(count)]


def drops(device_in: str, device_out: str, percent: int) -> str:
    """A gateway that loses packets, and counts them by direction."""
    lose = f"meta l4proto {{ tcp, udp }} numgen random mod 100 < {percent} counter name"
    return f"""
table inet drops {{
  counter lost_there {{ }}
  counter lost_back {{ }}
  chain pass {{
    type filter hook forward priority 10; policy accept;
    iifname "{device_in}" {lose} lost_there drop
    iifname "{device_out}" {lose} lost_back drop
  }}
}}
"""


def analyzed(pktrace: CommandLine, folder: Path, order: tuple[str, ...] = POINTS) -> Truth:
    result = pktrace("analyze", folder / "run", "--no-plots")
    assert result.returncode == 0, result.stderr
    return Truth(folder / "run", order)


def assert_right(truth: Truth, lost: Mapping[tuple[str, int], int]) -> None:
    """Nothing matched wrongly or missed, and at each stage as many lost as were counted there; all else delivered."""
    counted = {place: lost.get(place, 0) for place in truth.lost()}
    why = truth.report()
    assert truth.lost() == counted, why
    assert truth.wrong_matches() == [], why
    assert truth.missed_matches() == [], why
    assert truth.verdicts() == counted, why
    assert truth.fates_add_up(), why
    for way in ("there", "back"):
        sent = sum(truth.counts[way][truth.points(way)[0]].values())
        gone = sum(number for (path, _), number in counted.items() if path == way)
        fates = truth.fates(way)
        assert fates.pop("lost", 0) == gone, why
        assert fates == {"delivered": sent - gone}, why


@pytest.mark.parametrize("kind", ["one-to-one", "masquerade", "masquerade-twice"])
def test_translated_addresses(tmp_path: Path, pktrace: CommandLine, kind: str) -> None:
    """Many flows of several hosts behind a gateway that loses packets of both directions."""
    nat = {
        "one-to-one": [f"ip saddr {own} snat to 10.81.2.{100 + n}" for n, own in enumerate(CLIENTS)],
        "masquerade": ['oifname "wan" masquerade'],
        "masquerade-twice": ['oifname "wan" masquerade random'],
    }[kind]
    table = "table ip nat {{ chain post {{ type nat hook postrouting priority 100; policy accept;\n{}\n}}\n}}\n"
    with gateways() as net:
        net.nft("gw1", table.format("\n".join(nat)) + drops("lan", "wan", 3))
        if kind == "one-to-one":
            net.ip("gw2", "route", "add", "10.81.2.96/27", "via", GW1)
        if kind == "masquerade-twice":
            net.nft("gw2", table.format('oifname "dmz" masquerade'))
        net.nft("gw2", drops("wan", "dmz", 2))
        spec = {"udp": udp_flows(), "tcp": tcp_flows()}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        near, far = net.counters("gw1"), net.counters("gw2")
        print(net.inside("gw1","cat","/proc/net/stat/nf_conntrack"))
        near["lost_there"] += net.races_lost("gw1")
        far["lost_there"] += net.races_lost("gw2")
    truth = analyzed(pktrace, tmp_path)
    assert near["lost_there"] > 10
    lost = {("there", 0): near["lost_there"], ("there", 2): far["lost_there"]}
    assert_right(truth, {**lost, ("back", 0): far["lost_back"], ("back", 2): near["lost_back"]})
    changed = truth.transforms()
    assert {"nat-source", "ttl-1"} <= changed["there", 0]
    assert {"nat-destination", "ttl-1"} <= changed["back", 2]
    assert ("nat-source" in changed["there", 2]) == (kind == "masquerade-twice")
    assert ("nat-source-port" in changed["there", 0]) == (kind != "one-to-one")
