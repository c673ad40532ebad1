"""Following on recordings of real kernels: packets that gateways, tunnels and offloads change between the points.

Each test sends marked traffic through two gateways, records at both ends and between, and holds the analysis against
what does not depend on it: the marks in the captures, read by dpkt, and the counters of nft, tc and the wire.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.lab.gateway_traffic import (
    analyzed,
    assert_parts_right,
    assert_right,
    drops,
    losing_frames,
    masquerade,
    put_on_another_clock,
    tcp_flows,
    tunnel,
    udp_flows,
)
from tests.lab.gateways import CLIENTS, GW1, GW2, POINTS, SERVER, gateways, missing_tools, paths_file

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
    pytest.mark.skipif(bool(missing_tools()), reason=f"needs {', '.join(missing_tools())}"),
]


@pytest.mark.parametrize("kind", ["one-to-one", "masquerade", "masquerade-twice"])
def test_translated_addresses(tmp_path: Path, kind: str) -> None:
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
        near["lost_there"] += net.races_lost("gw1")
        far["lost_there"] += net.races_lost("gw2")
    truth = analyzed(tmp_path)
    assert near["lost_there"] > 10
    lost = {("there", 0): near["lost_there"], ("there", 2): far["lost_there"]}
    assert_right(truth, {**lost, ("back", 0): far["lost_back"], ("back", 2): near["lost_back"]})
    changed = truth.transforms()
    assert {"nat-source", "ttl-1"} <= changed["there", 0]
    assert {"nat-destination", "ttl-1"} <= changed["back", 2]
    assert ("nat-source" in changed["there", 2]) == (kind == "masquerade-twice")
    assert ("nat-source-port" in changed["there", 0]) == (kind != "one-to-one")


def test_headers_that_routers_rewrite(tmp_path: Path) -> None:
    """The MSS option of SYNs, DSCP, and the TTL set to a value of its own."""
    with gateways() as net:
        net.ip("gw1", "link", "set", "wan", "mtu", "1300")
        net.ip("gw2", "link", "set", "wan", "mtu", "1300")
        net.nft(
            "gw1",
            """
table ip mangle {
  counter clamped { }
  chain pass {
    type filter hook forward priority 0; policy accept;
    tcp flags syn counter name clamped tcp option maxseg size set rt mtu
    ip dscp set 10
  }
}
""",
        )
        net.nft(
            "gw2",
            "table ip mangle {\nchain pass {\ntype filter hook postrouting priority 0; ip ttl set 33\n}\n}\n"
            + drops("wan", "dmz", 2),
        )
        spec = {"udp": udp_flows(sizes=[40, 900]), "tcp": tcp_flows(10, 20_000)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        counted, far = net.counters("gw1"), net.counters("gw2")
    truth = analyzed(tmp_path)
    assert_right(truth, {("there", 2): far["lost_there"], ("back", 0): far["lost_back"]})
    changed = truth.transforms()
    # Flags are all that `tcp flags syn` asks for: SYN and SYN-ACK both lose bytes of their MSS.
    # Either may be sent again.
    clamped = []
    for place in (("there", 0), ("back", 2)):
        (mss,) = changed[place] - {"ttl-1", "dscp"}
        assert mss in ("tcp-mss", "tcp-options")
        clamped.append(truth.changed_packets(*place, mss))
    assert min(clamped) >= 10
    assert sum(clamped) == counted["clamped"]
    assert changed["there", 2] == {"ttl-30"}
    assert changed["back", 0] == {"ttl-31"}


@pytest.mark.parametrize("kind", ["jitter", "duplicates", "everything"])
def test_an_unsteady_wire(tmp_path: Path, kind: str) -> None:
    """Between the gateways packets overtake each other, are doubled and lost."""
    options = {
        "jitter": ["--delay-us", "3000", "--jitter-us", "4000"],
        "duplicates": ["--dup", "0.05", "--loss", "0.03"],
        "everything": ["--delay-us", "2000", "--jitter-us", "3000", "--dup", "0.03", "--loss", "0.03"],
    }[kind]
    log = tmp_path / "wire.json"
    with gateways(wired=True) as net:
        net.link("wire", net.namespace("wire"), "--seed", "7", *options, log=log)
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        counted = net.link_counts(log)
    truth = analyzed(tmp_path)
    lost = {("there", 1): counted["left"]["ip_lost"], ("back", 1): counted["right"]["ip_lost"]}
    doubled = counted["left"]["ip_duplicated"] + counted["right"]["ip_duplicated"]
    assert_right(truth, lost, copies=doubled)
    assert int(truth.trajectories["duplicates"].sum()) == doubled
    if "jitter-us" in " ".join(options):
        assert truth.reordered("there", "near", "far") > 20


def test_vlan(tmp_path: Path) -> None:
    """A tag between the gateways, and losses before and behind it."""
    order = ("client", "near", "middle", "far", "server")
    log = tmp_path / "wire.json"
    with gateways(wired=True) as net:
        net.link("wire", net.namespace("wire"), "--vlan", "42", "--loss", "0.02", log=log)
        net.nft("gw2", drops("wan", "dmz", 2))
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4)}
        net.record(tmp_path, spec, paths_file(tmp_path, order), net.points(order))
        counted, far = net.link_counts(log), net.counters("gw2")
    truth = analyzed(tmp_path, order)
    lost = {("there", 1): counted["left"]["ip_lost"], ("back", 1): counted["right"]["ip_lost"]}
    assert_right(truth, {**lost, ("there", 3): far["lost_there"], ("back", 0): far["lost_back"]})
    changed = truth.transforms()
    assert (changed["there", 1], changed["there", 2]) == ({"vlan-push"}, {"vlan-pop"})
    assert (changed["back", 1], changed["back", 2]) == ({"vlan-push"}, {"vlan-pop"})


@pytest.mark.parametrize("kind", ["vxlan", "gre", "ipip"])
def test_tunnels(tmp_path: Path, kind: str) -> None:
    """Seen inside the tunnel and outside; outer headers have IP IDs and TTLs of their own."""
    log = tmp_path / "tunnel.json"
    order = ("client", "inner", "near", "far", "server")
    with gateways() as net:
        net.nft("gw1", drops("lan", "tun0", 2))
        net.nft("gw2", drops("tun0", "dmz", 2))
        device = tunnel(net, kind, log)
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4)}
        net.record(tmp_path, spec, paths_file(tmp_path, order), net.points(order, inner=f"{device}@gw1"))
        near, far = net.counters("gw1"), net.counters("gw2")
        near["lost_there"] += net.too_long("gw1")
        far["lost_back"] += net.too_long("gw2")
    truth = analyzed(tmp_path, order)
    lost = {("there", 0): near["lost_there"], ("there", 3): far["lost_there"]}
    assert_right(truth, {**lost, ("back", 0): far["lost_back"], ("back", 3): near["lost_back"]})
    changed = truth.transforms()
    assert changed["there", 1] == changed["back", 0] - {"ttl-1"} == {f"{kind}-push"}
    assert changed["there", 3] - {"ttl-1"} == changed["back", 2] == {f"{kind}-pop"}


@pytest.mark.parametrize("merging", [False, True])
def test_superpackets(tmp_path: Path, merging: bool) -> None:
    """The senders' superpackets are split between the gateways, both ways; and merged again behind, or not."""
    with gateways(offloads=True) as net:
        for role in ("gw1", "gw2"):
            net.ethtool(role, "wan", "tso", "off", "gso", "off", "gro", "on" if merging else "off")
            net.nft(role, losing_frames("wan", 2))
        spec = {"udp": udp_flows(3, 60), "tcp": tcp_flows(4, 400_000, chunk=30_000, gap_us=1500)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        near, far = net.counters("gw1")["frames"], net.counters("gw2")["frames"]
    truth = analyzed(tmp_path)
    assert max(seen.end - seen.begin for seen in truth.seen if seen.point == "client") > 10_000
    assert max(seen.end - seen.begin for seen in truth.seen if seen.point == ("near")) > 1448 or not merging
    assert_parts_right(truth, {"there": ("far", "server", far), "back": ("near", "client", near)})
    # What is merged again is lost whole: the senders' own superpackets come out, but where the segments of one came to
    # the interface at different times.
    partial = truth.fates().get("partial", 0)
    assert partial <= truth.fates()["lost"] if merging else partial > 0


@pytest.mark.parametrize("merging", [False, True])
def test_a_queue_that_drops_segments(tmp_path: Path, merging: bool) -> None:
    """A shaper splits superpackets and drops what does not fit its queue: packets arrive in part, are merged around
    the holes, and sent again."""
    with gateways(offloads=True) as net:
        net.shape("gw1", "wan")
        net.ethtool("gw1", "wan", "tso", "off", "gso", "off")
        net.ethtool("gw2", "wan", "gro", "on" if merging else "off")
        spec = {"udp": udp_flows(3, 100), "tcp": tcp_flows(3, 400_000, back=0, chunk=50_000)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        dropped = net.queue_drops("gw1", "wan")
    truth = analyzed(tmp_path)
    fates, lost = truth.fates_by_segments("client", "near", "there", 1448)
    assert 10 < lost == dropped
    assert_parts_right(truth, {})
    assert truth.fates("there") == fates, truth.report()
    assert truth.fates("back") == {"delivered": sum(truth.counts["back"]["server"].values())}
    merged = max(seen.end - seen.begin for seen in truth.seen if (seen.point, seen.direction) == ("far", "there"))
    assert merged == 1448 or merging  # how much is merged is a matter of time


def test_udp_superpackets(tmp_path: Path) -> None:
    """Segments of UDP_SEGMENT, whose IP IDs overlap with those of the next superpacket."""
    with gateways(offloads=True) as net:
        net.ethtool("gw1", "wan", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
        net.nft("gw2", losing_frames("wan", 3))
        flows = udp_flows(4, 40, segment=1200, sizes=[9000, 24_000, 800, 17_777], answers=[], gap_us=3000)
        net.record(tmp_path, {"udp": flows}, paths_file(tmp_path), net.points())
        far = net.counters("gw2")["frames"]
    truth = analyzed(tmp_path)
    assert max(seen.end - seen.begin for seen in truth.seen if seen.point == "client") == 24_000
    assert max(seen.end - seen.begin for seen in truth.seen if seen.point == "near") == 1200
    assert_parts_right(truth, {"there": ("far", "server", far)})
    assert truth.fates()["partial"] > 0


@pytest.mark.parametrize("reassembling", [False, True])
def test_fragments(tmp_path: Path, reassembling: bool) -> None:
    """Datagrams become fragments at the first gateway; the second puts them together if it tracks connections."""
    with gateways() as net:
        net.ip("gw1", "link", "set", "wan", "mtu", "600")
        net.nft("gw2", losing_frames("wan", 3))
        if reassembling:
            net.nft(
                "gw2",
                "table ip track {\nchain pass {\ntype filter hook prerouting priority 0\nct state new counter\n}\n}\n",
            )
        flows = udp_flows(6, 80, sizes=[200, 1400, 900], may_fragment=1, answers=[40])
        net.record(tmp_path, {"udp": flows}, paths_file(tmp_path), net.points())
        far = net.counters("gw2")["frames"]
    truth = analyzed(tmp_path)
    if reassembling:  # of a datagram that is not whole nothing goes on; what goes on is fragmented as before
        sent, arrived = (
            {s.key for s in truth.seen if s.point == p and s.direction == "there"} for p in ("client", "server")
        )
        assert len(sent - arrived) > 0
        assert truth.fates("there") == {"delivered": len(arrived), "lost": len(sent - arrived)}, truth.report()
        assert_parts_right(truth, {})
    else:
        assert_parts_right(truth, {"there": ("far", "server", far)})
        assert truth.fates("there")["partial"] > 0
    assert "fragment" in {seen.token[0] for seen in truth.seen if isinstance(seen.token, tuple)}
    changed = truth.transforms()
    assert changed["there", 0] <= {"ttl-1", "payload", "fragmentation"}
    assert changed["there", 2] <= {"ttl-1", "payload", "reassembly"}, truth.report()


@pytest.mark.skipif(shutil.which("editcap") is None, reason="needs editcap")
@pytest.mark.parametrize(
    ("point", "seconds", "offloads"), [("server", "3.25", False), ("client", "-40", True), ("near", "0.7", False)]
)
def test_a_clock_that_is_off(tmp_path: Path, point: str, seconds: str, offloads: bool) -> None:
    """By seconds, also just where addresses are translated and superpackets split: no sighting there is as before."""
    with gateways(offloads=offloads) as net:
        if offloads:
            net.ethtool("gw1", "wan", "tso", "off", "gso", "off")
        net.nft("gw1", masquerade("wan"))
        net.nft("gw2", losing_frames("wan", 3))
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        far, races = net.counters("gw2")["frames"], net.races_lost("gw1")
    put_on_another_clock(tmp_path / "run", point, seconds)
    truth = analyzed(tmp_path)
    if offloads:
        assert_parts_right(truth, {"there": ("far", "server", far)}, races)
        assert truth.fates("back") == {"delivered": truth.counts["back"]["server"].total()}
    else:
        # editcap moves packets, and leaves the times at which interfaces began and ended: the file ends with its last.
        assert_right(truth, {("there", 0): races, ("there", 2): far}, at_the_end=2)
    # Nothing is said of latencies from one clock to another.
    for entry in truth.summary["latency"]:
        if entry["stage"] is not None:
            assert (entry["count"] > 0) == (point not in (entry["from_point"], entry["to_point"]))


ENDS = ("client", "server")


@pytest.mark.parametrize("declared", ["as one path", "apart"])
def test_an_encrypted_leg(tmp_path: Path, declared: str) -> None:
    """Nobody can tell which encrypted packet holds which one: none is matched there, and none is called lost there."""
    log = tmp_path / "tunnel.json"
    order = POINTS if declared == "as one path" else ENDS
    with gateways() as net:
        net.nft("gw2", drops("tun0", "dmz", 2))
        tunnel(net, "sealed", log)
        paths = paths_file(tmp_path, order)
        if declared == "apart":
            there, back = (
                f'\n[[path]]\nname = "{name}"\npoints = ["{a}", "{b}"]\nmatch = {{ source = "{source}" }}\n'
                for name, a, b, source in (("sealed", "near", "far", GW1), ("sealed-back", "far", "near", GW2))
            )
            paths.write_text(paths.read_text() + there + back)
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4, 30_000)}
        net.record(tmp_path, spec, paths, net.points())
        far = net.counters("gw2")
        far["lost_back"] += net.too_long("gw2")
        refused = net.too_long("gw1")
        carried = net.link_counts(log)["ends"]
    truth = analyzed(tmp_path, ENDS)
    assert truth.wrong_matches() == [], truth.report()
    assert truth.missed_matches() == [], truth.report()
    counted = {("there", 0): far["lost_there"] + refused, ("back", 0): far["lost_back"]}
    if declared == "as one path":
        # What saw nothing of the packets that arrived proves nothing of those that did not.
        assert truth.verdicts() == dict.fromkeys(counted, 0), truth.report()
        assert truth.verdicts("undetermined") == counted, truth.report()
    else:
        assert truth.verdicts() == counted, truth.report()
        assert truth.fates("sealed") == {"delivered": carried[0]["sealed"]}
        assert truth.fates("sealed-back") == {"delivered": carried[1]["sealed"]}


@pytest.mark.parametrize("declared", ["each with its paths", "one crossing over to the other"])
def test_two_links_with_equal_traffic(tmp_path: Path, declared: str) -> None:
    """The same payloads at the same time over two links that have nothing to do with each other."""
    crossing = declared != "each with its paths"
    with gateways() as one, gateways() as other:
        # UDP that is always a little later on one link would look as NAT with IP IDs of its own does.
        spec = {"udp": [] if crossing else udp_flows(4, 100), "tcp": tcp_flows(4, 40_000)}
        for flow in (*spec["udp"], *spec["tcp"]):
            flow["from"] = [CLIENTS[1], flow["from"][1] and 4000 + flow["flow"]]
        second = {
            kind: [{**flow, "from": [CLIENTS[2], flow["from"][1]]} for flow in flows] for kind, flows in spec.items()
        }
        ends = [*one.points(ENDS), *(f"second-{named}" for named in other.points(ENDS))]
        pairs = {"there": ("client", "second-server" if crossing else "server")}
        pairs["back"] = (pairs["there"][1], "client")
        if not crossing:
            pairs |= {
                "second-there": ("second-client", "second-server"),
                "second-back": ("second-server", "second-client"),
            }
        paths = tmp_path / "paths.toml"
        paths.write_text("".join(
            f'\n[[path]]\nname = "{name}"\npoints = ["{a}", "{b}"]\n'
            f'match = {{ {"destination" if "there" in name else "source"} = "{SERVER}" }}\n'
            for name, (a, b) in pairs.items()
        ))  # fmt: skip
        one.record(tmp_path, spec, paths, ends, beside=other.conversations(tmp_path, second, "second"))
    truth = analyzed(tmp_path, ENDS)
    across = [
        frames
        for frames in truth.by_trajectory.values()
        if len({seen.point.startswith("second-") for seen in frames}) > 1
    ]
    assert across == [], truth.report()
    if not crossing:
        assert set(truth.fates()) == {"delivered"}


def test_translated_on_an_unsteady_wire(tmp_path: Path) -> None:
    """Masquerade, and behind it losses, copies and packets that overtake each other."""
    log = tmp_path / "wire.json"
    with gateways(wired=True) as net:
        net.link("wire", net.namespace("wire"), "--seed", "5", "--delay-us", "1500", "--jitter-us", "2500",
                 "--dup", "0.02", "--loss", "0.03", log=log)  # fmt: skip
        net.nft("gw1", masquerade("wan"))
        spec = {"udp": udp_flows(), "tcp": tcp_flows(4)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        counted, races = net.link_counts(log), net.races_lost("gw1")
    truth = analyzed(tmp_path)
    doubled = counted["left"]["ip_duplicated"] + counted["right"]["ip_duplicated"]
    lost = {("there", 1): counted["left"]["ip_lost"], ("back", 1): counted["right"]["ip_lost"]}
    assert_right(truth, lost | {("there", 0): races}, copies=doubled)
    assert int(truth.trajectories["duplicates"].sum()) == doubled


@pytest.mark.parametrize("merging", [False, True])
def test_translated_superpackets(tmp_path: Path, pktrace: CommandLine, merging: bool) -> None:
    """Masquerade, and a shaper that splits and drops behind it."""
    with gateways(offloads=True) as net:
        net.shape("gw1", "wan")
        net.ethtool("gw1", "wan", "tso", "off", "gso", "off")
        net.ethtool("gw2", "wan", "gro", "on" if merging else "off")
        net.nft("gw1", masquerade("wan"))
        spec = {"udp": udp_flows(3, 100), "tcp": tcp_flows(3, 400_000, back=0, chunk=50_000)}
        net.record(tmp_path, spec, paths_file(tmp_path), net.points())
        dropped = net.queue_drops("gw1", "wan") + net.races_lost("gw1")
    truth = analyzed(tmp_path)
    fates, lost = truth.fates_by_segments("client", "near", "there", 1448)
    assert 10 < lost == dropped
    assert_parts_right(truth, {})
    assert truth.fates("there") == fates, truth.report()
    assert truth.fates("back") == {"delivered": truth.counts["back"]["server"].total()}
    # Nobody is told beforehand that such a recording could not be analysed.
    told = json.loads(pktrace("check", tmp_path / "run", "--json").stdout)
    assert [told["answers"][question]["answer"] for question in ("latency", "losses")] == ["yes", "yes"]
    proposed = pktrace("init", *sorted((tmp_path / "run" / "captures").glob("*.pcapng")))
    assert proposed.returncode == 0, proposed.stderr
    assert 'points = ["near", "far", "server"]' in proposed.stdout
    assert "client shares no packets with another point" in proposed.stdout.replace("\n# ", " ")


def test_short_flows(tmp_path: Path) -> None:
    """Many hosts and ports behind one address, a few datagrams each."""
    with gateways() as net:
        net.nft("gw1", masquerade("wan") + drops("lan", "wan", 3))
        flows = [
            {"flow": n, "from": [CLIENTS[n % 6], 4000 + n // 6], "to": [SERVER, 5001], "count": 1 + n % 4,
             "sizes": [48, 80], "gap_us": 20_000} for n in range(90)
        ]  # fmt: skip
        net.record(tmp_path, {"udp": flows}, paths_file(tmp_path), net.points())
        near = net.counters("gw1")
        near["lost_there"] += net.races_lost("gw1")
    truth = analyzed(tmp_path)
    lost = {("there", 0): near["lost_there"], ("back", 2): near["lost_back"]}
    assert truth.wrong_matches() == [], truth.report()
    assert {place: number for place, number in truth.verdicts().items() if number} == lost, truth.report()
    assert truth.fates_add_up()
    # One packet alone of a flow says too little: then it is ambiguous, and not lost. Two datagrams that begin a flow at
    # the same time may be given a port each by the gateway: behind it these are two flows.
    passed = Counter((seen.point, seen.ports) for seen in truth.seen if seen.key)
    for _, _, frames in truth.apart():
        assert 1 in {passed[seen.point, seen.ports] for seen in frames}, truth.report()
    assert set(truth.fates()) <= {"delivered", "lost", "ambiguous"}


@pytest.mark.parametrize("kind", ["plain", "masquerade"])
def test_six(tmp_path: Path, kind: str) -> None:
    """IPv6 with fragments that the sender made, which a gateway that tracks connections holds until they are whole."""
    with gateways(six=True) as net:
        if kind == "masquerade":
            net.nft("gw1", masquerade("wan"))
        net.nft("gw2", losing_frames("wan", 3))
        udp = [{**flow, "from": ["fd81:1::2", flow["from"][1] + flow["flow"]], "to": ["fd81:3::2", 5001]}
               for flow in udp_flows(4, 80, sizes=[100, 2000], answers=[60])]  # fmt: skip
        tcp = [{**flow, "from": ["fd81:1::2", 0], "to": ["fd81:3::2", 6001]} for flow in tcp_flows(3, 40_000)]
        paths = paths_file(tmp_path, client='"fd81:1::2"', server='"fd81:3::2"')
        net.record(tmp_path, {"udp": udp, "tcp": tcp}, paths, net.points())
        far, races = net.counters("gw2")["frames"], net.races_lost("gw1")
    truth = analyzed(tmp_path)
    assert_parts_right(truth, {"there": ("far", "server", far)}, races)
    assert truth.fates("back") == {"delivered": truth.counts["back"]["server"].total()}
    assert ("nat-source" in truth.transforms()["there", 0]) == (kind == "masquerade")


@pytest.mark.parametrize("sizes", [[200, 1400, 2500], [1400, 2500]])
def test_translated_fragments(tmp_path: Path, sizes: list[int]) -> None:
    """Masquerade where datagrams become fragments, and where the sender's fragments become others; if all do, no
    packet behind the gateway is like the one before it."""
    with gateways() as net:
        net.nft("gw1", masquerade("wan"))
        net.ip("gw1", "link", "set", "wan", "mtu", "900")
        net.nft("gw2", losing_frames("wan", 3))
        flows = udp_flows(6, 60, sizes=sizes, may_fragment=1, answers=[40])
        net.record(tmp_path, {"udp": flows}, paths_file(tmp_path), net.points())
        far, races = net.counters("gw2")["frames"], net.races_lost("gw1")
    truth = analyzed(tmp_path)
    assert_parts_right(truth, {"there": ("far", "server", far)}, races)
    assert {"nat-source", "nat-source-port"} <= truth.transforms()["there", 0]


def test_translated_udp_superpackets(tmp_path: Path) -> None:
    """All datagrams of the flows are split where they are translated."""
    with gateways(offloads=True) as net:
        net.ethtool("gw1", "wan", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
        net.nft("gw1", masquerade("wan"))
        net.nft("gw2", losing_frames("wan", 3))
        flows = udp_flows(4, 40, segment=1200, sizes=[9000, 24_000, 17_777], answers=[], gap_us=3000)
        net.record(tmp_path, {"udp": flows}, paths_file(tmp_path), net.points())
        far, races = net.counters("gw2")["frames"], net.races_lost("gw1")
    truth = analyzed(tmp_path)
    assert_parts_right(truth, {"there": ("far", "server", far)}, races)
    assert "nat-source" in truth.transforms()["there", 0]
