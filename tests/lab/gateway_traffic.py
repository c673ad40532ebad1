"""What the tests of changed packets send, what they do to it on its way, and what they demand of the analysis."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pktrace.cli.main import pktrace
from tests.lab.gateways import CLIENTS, GW1, GW2, POINTS, SERVER, Gateways, kernel_refuses
from tests.lab.told_apart import Truth


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


def masquerade(device: str) -> str:
    """Everything that leaves by a device gets its address."""
    return f"""
table inet nat {{
  chain post {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{device}" masquerade
  }}
}}
"""


def analyzed(folder: Path, order: tuple[str, ...] = POINTS) -> Truth:
    """Analyse a recording, as the command does, within this process: it need not start anew for each."""
    result = CliRunner().invoke(pktrace, ["analyze", str(folder / "run"), "--no-plots"])
    assert result.exit_code == 0, result.output
    return Truth(folder / "run", order)


def assert_right(truth: Truth, lost: Mapping[tuple[str, int], int], copies: int = 0, at_the_end: int = 0) -> None:
    """Nothing matched wrongly or missed, and at each stage as many lost as were counted there; all else delivered.

    Of packets with the same bytes (SYN-ACKs), a copy of the one hides in the captures that the other was lost: of so
    many copies. Of packets that were lost `at_the_end`, when the next capture saw none any more, that is not known.
    """
    counted = {place: lost.get(place, 0) for place in truth.lost()}
    hidden = {place: counted[place] - seen for place, seen in truth.lost().items()}
    assert all(0 <= number <= copies for number in hidden.values()), truth.report()
    assert truth.wrong_matches() == [], truth.report()
    assert truth.missed_matches() == [], truth.report()
    unknown = truth.verdicts("undetermined")
    assert sum(unknown.values()) <= at_the_end, truth.report()
    assert {place: told + unknown[place] for place, told in truth.verdicts().items()} == counted, truth.report()
    assert truth.fates_add_up(), truth.report()
    for way in ("there", "back"):
        sent = sum(truth.counts[way][truth.points(way)[0]].values())
        gone = sum(number for (path, _), number in counted.items() if path == way)
        fates = truth.fates(way)
        assert fates.pop("lost", 0) + fates.pop("undetermined", 0) == gone, truth.report()
        assert fates == {"delivered": sent - gone}, truth.report()


def losing_frames(device: str, percent: int) -> str:
    """Lose and count what comes in at a device, behind its capture."""
    return f"""
table netdev losing {{
  counter frames {{ }}
  chain arrived {{
    type filter hook ingress device "{device}" priority 0; policy accept;
    meta l4proto {{ tcp, udp }} numgen random mod 100 < {percent} counter name frames drop
  }}
}}
"""


def assert_parts_right(truth: Truth, losses: Mapping[str, tuple[str, str, int]], races: int = 0) -> None:
    """Bytes are where the analysis says; by direction, (before, behind, frames counted) of the only loss there.

    Besides it, the first gateway dropped so many datagrams whose flow began just as another one: `races_lost`.
    """
    assert truth.wrong_parts() == [], truth.report()
    assert truth.unexplained() == [], truth.report()
    assert truth.fates_add_up(), truth.report()
    for way, (before, behind, counted) in losses.items():
        left = truth.counts[way][before] - truth.counts[way][behind]
        assert sum(left.values()) == counted, truth.report()
        fates = Counter(truth.fates_by_parts(before, behind, way))
        if way == "there":
            raced = truth.vanished(way, "client", "near")
            assert len({seen.key or seen.token for seen in raced}) == races, truth.report()
            fates["lost"] += len(raced)
        assert truth.fates(way) == +fates, truth.report()


def put_on_another_clock(folder: Path, point: str, seconds: str) -> None:
    """Move the time stamps of one capture, and say in run.toml that its clock is another one."""
    capture = folder / "captures" / f"{point}.pcapng"
    moved = capture.with_name("moved.pcapng")
    subprocess.run(["editcap", "-t", seconds, capture, moved], check=True)
    moved.replace(capture)
    before, _, rest = (folder / "run.toml").read_text(encoding="utf-8").partition(f"{point}.pcapng")
    words = before + f"{point}.pcapng" + rest.replace('clock = "host"', f'clock = "{point}"', 1)
    head, _, tail = words.partition("[window]")  # a window is told on one clock
    words = head + tail[tail.index("\n[") + 1 :]
    (folder / "run.toml").write_text(words, encoding="utf-8")


def tunnel(net: Gateways, kind: str, log: Path) -> str:
    """A tunnel between the gateways: the kernel's where it has one, else ours; returns the device."""
    options = {
        "vxlan": ["vxlan", "id", "7", "dstport", "4789", "local", "{here}", "remote", "{there}"],
        "gre": ["gre", "local", "{here}", "remote", "{there}"],
        "ipip": ["ipip", "local", "{here}", "remote", "{there}"],
    }.get(kind)
    device = "tun0"
    if options is None or kernel_refuses(*(word.format(here=GW1, there=GW2) for word in options)):
        net.link("tunnel", kind, net.namespace("gw1"), net.namespace("gw2"), GW1, GW2, log=log)
    else:
        for role, here, there in (("gw1", GW1, GW2), ("gw2", GW2, GW1)):
            words = [word.format(here=here, there=there) for word in options]
            net.ip(role, "link", "add", device, "type", *words)
    for role, own, other, behind in (("gw1", 1, 2, 3), ("gw2", 2, 1, 1)):
        net.ip(role, "addr", "add", f"10.81.9.{own}/24", "dev", device)
        # A long queue: what a link in user space has no processor for is late, and not lost without a count.
        net.ip(role, "link", "set", device, "mtu", "1400", "txqueuelen", "100000", "up")
        if kind == "vxlan":
            net.ethtool(role, device, "gro", "off")
            net.ip(role, "link", "set", device, "address", f"02:81:00:00:09:{3 if own == 1 else 4:02x}")
            peer = f"02:81:00:00:09:{4 if own == 1 else 3:02x}"
            net.ip(role, "neigh", "replace", f"10.81.9.{other}", "lladdr", peer, "dev", device, "nud", "permanent")
        net.ip(role, "route", "add", f"10.81.{behind}.0/24", "via", f"10.81.9.{other}", "dev", device)
    return device
