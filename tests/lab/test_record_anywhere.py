"""The recorder on interfaces that it knows nothing of: every option, held against what was sent."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from capture_scripts import record as recorder
from capture_scripts.processes import run
from capture_scripts.quiet import wait_until
from capture_scripts.recorder import socket_filters
from tests.conftest import CommandLine
from tests.kit.index import CaptureFile
from tests.lab.conftest import (
    LONG_S,
    Wire,
    captures,
    packets,
    record,
    run_toml,
    running,
    start,
    wait_for,
    wait_until_deserted,
)

pytestmark = pytest.mark.lab
QUICK = ("--threshold", 0.1)
ECHO_REQUEST = 8


def directions_by_type(file: CaptureFile, point: str, before_ip: int = 14) -> list[int]:
    """Directions of pings at a point, 2 for out of it: requests leave the near end and answers the far one. The order
    of both is nobody's: a request may leave before the answer to the last one is there.
    """
    kinds = (file.data[int(start) + before_ip + 20] for start in file.capture.packets["offset"])
    return [2 if (kind == ECHO_REQUEST) == (point == "near") else 1 for kind in kinds]


def test_what_a_run_says(tmp_path: Path, wire: Wire, pktrace: CommandLine) -> None:
    """Names, window, statistics, snapshots; and the analyser takes it, with paths from a file."""
    out = tmp_path / "run"
    paths = tmp_path / "paths.toml"
    paths.write_text(
        '# kept as it stands\n[[path]]\nname = "there"\npoints = ["near", "far"]\nstages = ["cable"]\n'
        f'match = {{ destination = "{wire.right_address}" }}\n'
        '[[path]]\nname = "back"\npoints = ["far", "near"]\n'
    )
    record(out, *wire.points(), "--paths", paths, "--description", "a cable", *QUICK, "--", *wire.ping(50))
    document = run_toml(out)
    assert (document["name"], document["description"]) == ("run", "a cable")
    assert [point["name"] for point in document["point"]] == ["near", "far"]
    assert "# kept as it stands" in (out / "run.toml").read_text()
    window = document["window"]["start_ns"], document["window"]["end_ns"]
    for name, file in captures(out).items():
        (interface,) = file.capture.interfaces
        assert interface.name == name
        assert (interface.received, interface.dropped) == (100, 0)
        assert interface.start_ns is not None
        assert interface.end_ns is not None
        assert interface.start_ns <= window[0] < window[1] <= interface.end_ns
        times = file.capture.packets["ts"]
        assert len(times) == 100
        assert window[0] < times.min() < times.max() < window[1]
        assert "100 packets received by filter" in (out / "captures" / f"{name}.log").read_text()
    context = {file.name for file in (out / "context").iterdir()}
    assert context >= {"ip-link.json", "ip-link-after.json", "ip-addr.json", "uname.txt", "tool-versions.json"}
    result = pktrace("analyze", out, "--no-plots")
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "results" / "summary.json").read_text())
    for path in ("there", "back"):
        told = summary["paths"][path]
        assert (told["trajectories"], told["fates"]["delivered"]) == (50, 50)


def test_directions(tmp_path: Path, wire: Wire) -> None:
    """Two captures per point, merged by time; each packet says its direction."""
    out = tmp_path / "run"
    record(out, *wire.points(), "--direction", "--filter", "icmp", *QUICK, "--", *wire.ping(30))
    for name, file in captures(out).items():
        found = file.capture.packets
        assert (np.diff(found["ts"]) > 0).all()
        assert list(found["direction"]) == directions_by_type(file, name)
        assert sorted(found["direction"]) == [1] * 30 + [2] * 30
        (interface,) = file.capture.interfaces
        assert (interface.received, interface.dropped) == (60, 0)
        assert sorted(log.name for log in (out / "captures").glob(f"{name}*.log")) == [
            f"{name}.in.log",
            f"{name}.out.log",
        ]


def test_directions_under_traffic_are_never_mixed_up(tmp_path: Path, wire: Wire) -> None:
    """The filters are attached while packets fly: none that came before may carry a wrong direction.

    What came before is left out, and on a busy machine that may be most of a second.
    """
    out = tmp_path / "run"
    with wire.pinging("-i", "0.001"):
        record(out, *wire.points(), "--direction", "--snaplen", 64, "--count", 3000, *QUICK)
    for name, file in captures(out).items():
        found = file.capture.packets
        assert len(found) > 500
        assert list(found["direction"]) == directions_by_type(file, name)


def test_one_capture_of_all_devices(tmp_path: Path, wire: Wire) -> None:
    """LINUX_SLL2: points share a file per namespace; the names come from the namespace of the capture."""
    out = tmp_path / "run"
    run(["ip", "-n", wire.left, "link", "add", "idle", "type", "veth", "peer", "name", "idle2"])
    points = ["--points", f"near=eth0@{wire.left}", f"idle=idle@{wire.left}", f"far=eth0@{wire.right}"]
    record(out, *points, "--any", *QUICK, "--", *wire.ping(30))
    assert [point["captures"] for point in run_toml(out)["point"]] == [
        ["captures/any-1.pcapng"], ["captures/any-1.pcapng"], ["captures/any-2.pcapng"],
    ]  # fmt: skip
    whole = captures(out)["near"]
    file = whole.capture
    names = [interface.name for interface in file.interfaces]
    assert set(names) == {"near", "idle", "lo", "idle2"}
    assert {names[number] for number in file.packets["interface"]} == {"near"}
    assert list(file.packets["direction"]) == directions_by_type(whole, "near", before_ip=20)
    assert sorted(file.packets["direction"]) == [1] * 30 + [2] * 30
    shared = json.loads((out / "context" / "any-interfaces.json").read_text())
    assert shared["any-1"] == {"near": 60, "idle": 0, "lo": 0, "idle2": 0}
    assert shared["any-2"]["far"] == 60


def test_a_whole_namespace_without_naming_points(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    record(out, "--any", "--netns", wire.left, *QUICK, "--", *wire.ping(10))
    (point,) = run_toml(out)["point"]
    assert (point["name"], point["interface"]) == ("eth0", "eth0")
    assert packets(out) == {"eth0": 20}


def test_a_ring_keeps_the_end(tmp_path: Path, wire: Wire) -> None:
    """Older files are overwritten; the run says from when on it holds everything."""
    out = tmp_path / "run"
    flood = wire.ping(1500, "-f", "-s", "1400")
    said = record(out, *wire.points(), "--ring", "1:3", "--snaplen", 0, *QUICK, "--", *flood)
    assert "were overwritten" in said
    assert "were overwritten" in (out / "context" / "notes.txt").read_text()
    document = run_toml(out)
    for point in document["point"]:
        assert point["captures"] == [f"captures/{point['name']}-{number:04d}.pcapng" for number in (1, 2, 3)]
    oldest = max(int(file.capture.packets["ts"].min()) for file in captures(out).values())
    assert document["window"]["start_ns"] == oldest
    assert not list(out.glob("captures/*.pcap[0-9]*"))


def test_a_ring_that_is_not_full(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    record(out, *wire.points(), "--ring", "1:3", *QUICK, "--", *wire.ping(10))
    assert packets(out) == {"near": 20, "far": 20}
    assert not (out / "context" / "notes.txt").exists()


@pytest.mark.skipif(shutil.which("dumpcap") is None, reason="needs dumpcap")
@pytest.mark.parametrize("option", [(), ("--direction",), ("--any",)])
def test_dumpcap(tmp_path: Path, wire: Wire, option: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    record(out, *wire.points(), "--tool", "dumpcap", *option, "--filter", "icmp", *QUICK, "--", *wire.ping(30))
    for name, file in captures(out).items():
        numbers = [n for n, interface in enumerate(file.capture.interfaces) if interface.name == name]
        found = file.capture.packets[np.isin(file.capture.packets["interface"], numbers)]
        assert len(found) == 60
        assert {int(ts) % 1000 for ts in found["ts"]} != {0}  # nanoseconds


@pytest.fixture
def fake_ssh(tmp_path: Path, wire: Wire) -> str:
    """A command that treats its arguments as ssh does: joined by spaces, and read by another shell."""
    script = tmp_path / "fake-ssh"
    script.write_text(f'#!/bin/sh\nshift\nexec ip netns exec {wire.right} sh -c "$*"\n')
    script.chmod(0o755)
    return f"{script} user@host"


@pytest.mark.parametrize("kind", ["namespace", "ssh"])
@pytest.mark.parametrize("option", [(), ("--direction",), ("--any",)])
def test_another_host(tmp_path: Path, wire: Wire, fake_ssh: str, kind: str, option: tuple[str, ...]) -> None:
    """A prefix leads elsewhere. Here it is the same kernel, which is told by its boot id: one clock."""
    out = tmp_path / "run"
    prefix = fake_ssh if kind == "ssh" else f"ip netns exec {wire.right}"
    points = ["--points", f"near=eth0@{wire.left}", "--ssh", prefix, "--points", "far=eth0"]
    record(out, *points, *option, "--filter", "icmp or arp", *QUICK, "--", *wire.ping(30))
    assert [len(file.capture.packets) for file in captures(out).values()] == [60, 60]
    document = run_toml(out)
    assert {point["clock"] for point in document["point"]} == {"host"}
    assert "window" in document
    (interface,) = [i for i in captures(out)["far"].capture.interfaces if i.name == "far"]
    assert (interface.received, interface.dropped) == (60, 0)


def test_another_clock_has_no_common_window(tmp_path: Path, wire: Wire) -> None:
    """A host with another boot id has another clock: times are its own, and nothing is said about both."""
    out = tmp_path / "run"
    script = tmp_path / "elsewhere"
    boot = tmp_path / "boot_id"
    boot.write_text("00000000-0000-0000-0000-000000000001\n")
    script.write_text(
        f"#!/bin/sh\nexec ip netns exec {wire.right} unshare -m sh -c "
        f'\'mount --bind {boot} /proc/sys/kernel/random/boot_id; exec "$@"\' sh "$@"\n'
    )
    script.chmod(0o755)
    points = ["--points", f"near=eth0@{wire.left}", "--ssh", script, "--points", "far=eth0"]
    record(out, *points, *QUICK, "--", *wire.ping(10))
    document = run_toml(out)
    assert [point["clock"] for point in document["point"]] == ["host", "host-2"]
    assert "window" not in document
    assert packets(out) == {"near": 20, "far": 20}
    assert captures(out)["far"].capture.interfaces[0].end_ns is not None


@pytest.mark.parametrize("ending", [("--count", "200@far"), ("--duration", 0.7)])
def test_endings_while_traffic_goes_on(tmp_path: Path, wire: Wire, ending: tuple[str, object]) -> None:
    """The network is never quiet; nothing is unread all the same, and both points saw the same packets."""
    out = tmp_path / "run"
    with wire.pinging("-i", "0.002"):
        record(out, *wire.points(), *ending, *QUICK)
    assert not (out / "context" / "notes.txt").exists()
    window = run_toml(out)["window"]
    seen = []
    for file in captures(out).values():
        (interface,) = file.capture.interfaces
        times = file.capture.packets["ts"]
        assert interface.received == len(times)
        # The first bytes of each echo message: its type, ..., and its number.
        echoes = [bytes(file.data[p["offset"] + 34 : p["offset"] + 42]) for p in file.capture.packets]
        within = (times > window["start_ns"]) & (times < window["end_ns"])
        seen.append({echo for echo, kept in zip(echoes, within, strict=True) if kept})
        if ending[0] == "--count":
            assert len(times) >= 200
    assert window["end_ns"] - window["start_ns"] >= 700_000_000 or ending[0] == "--count"
    both = seen[0] & seen[1]
    assert both
    # Only what was on the cable when the window opened or closed was seen at one point alone: the first and the last.
    for kind in (b"\x08", b"\x00"):
        common = sorted(number[6:8] for number in both if number[:1] == kind)
        alone = [number[6:8] for number in seen[0] ^ seen[1] if number[:1] == kind]
        assert [number for number in alone if common[0] < number < common[-1]] == []


def test_a_count_ends_the_command(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    record(out, *wire.points(), "--count", 50, *QUICK, "--", *wire.ping(1_000_000, "-i", "0.005"))
    wait_until_deserted(wire.left)
    assert packets(out)["near"] >= 50
    # It was asked for its count every now and then, and the first time that this was enough is the last but those at
    # the end: before its inflow is shut, until all is read, and its own last words.
    log = (out / "captures" / "near.log").read_text()
    told = [int(number) for number in re.findall(r"(\d+) packets received by filter", log)]
    enough = [count for count in told if count >= 50]
    assert min(enough) <= packets(out)["near"] == max(told)
    assert [count for count in told[told.index(enough[0]) :] if count < 50] == []
    assert len(set(enough)) <= 4


@pytest.mark.parametrize("target", ["there", "gone"])
def test_sentinels(tmp_path: Path, wire: Wire, target: str) -> None:
    """They pass the filter, and bound the window; whether the target answers does not matter."""
    out = tmp_path / "run"
    udp = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor _ in range(9): s.sendto(b'x', ('{wire.right_address}', 9))"  # noqa: E501
    if target == "gone":
        run(["ip", "netns", "exec", wire.right, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all"])
    sentinels = ("--sentinels", f"{wire.right_address}@{wire.left}")
    record(out, *wire.points(), *sentinels, "--filter", "udp", *QUICK, "--", *wire.in_left("python3", "-c", udp))
    told = json.loads((out / "context" / "sentinels.json").read_text())
    each = 6 if target == "there" else 3
    assert told["seen"] == {name: {"start": each, "end": each} for name in ("near", "far")}
    times = captures(out)["near"].capture.packets["ts"]
    assert len(times) == 9 + 2 * each
    window = run_toml(out)["window"]
    assert [window["start_ns"], window["end_ns"]] == told["window_ns"]
    assert ((times > window["start_ns"]) & (times < window["end_ns"])).sum() == 9


def test_nothing_is_written_about_the_host_when_asked(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    record(out, *wire.points(), "--no-context", "--keep-raw", *QUICK, "--", *wire.ping(3))
    assert {file.name for file in (out / "context").iterdir()} == {"uname.txt", "tool-versions.json"}
    assert {file.name for file in (out / "captures").iterdir()} == {
        f"{name}.{kind}" for name in ("near", "far") for kind in ("pcap", "pcapng", "log")
    }


def test_two_recordings_at_once(tmp_path: Path, wire: Wire) -> None:
    """Each shuts its own captures only."""
    pings = shlex.join(wire.ping(100))
    second = shlex.quote(str(tmp_path / "second" / "run.toml"))
    both = f"{pings}; while [ ! -e {second} ]; do sleep 0.05; done; {pings}"
    first = start(tmp_path / "first", *wire.points(), *QUICK, "--", "sh", "-c", both)
    wait_for(tmp_path / "first" / "context" / "ruleset-before.nft")
    record(tmp_path / "second", *wire.points(), *QUICK, "--duration", 0.3)
    _, said = first.communicate(timeout=LONG_S)
    assert first.returncode == 0, said
    assert packets(tmp_path / "first") == {"near": 400, "far": 400}


@pytest.mark.parametrize("busy", [False, True])
def test_where_no_inflow_can_be_shut(
    tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], busy: bool
) -> None:
    """An older kernel, or no right to: exact on a quiet network; on a busy one the capture ends at its last packet."""

    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(socket_filters, "attach", refuse)
    out = tmp_path / "run"

    given = [str(out), *wire.points(), "--threshold", "0.1"]
    if busy:
        with wire.pinging("-i", "0.002"):
            assert recorder.main([*given, "--duration", "1.3"]) == 0
    else:
        assert recorder.main([*given, "--", *wire.ping(20)]) == 0
    assert "note: near (eth0): its inflow could not be shut" in capsys.readouterr().err
    notes = (out / "context" / "notes.txt").read_text()
    ends = []
    for name, file in captures(out).items():
        (interface,) = file.capture.interfaces
        last = int(file.capture.packets["ts"].max())
        assert interface.end_ns is not None
        ends.append(interface.end_ns)
        if busy:
            assert f"{name}: " in notes
            assert interface.end_ns == last
        else:
            assert interface.end_ns > last
            assert interface.received == len(file.capture.packets)
    assert run_toml(out)["window"]["end_ns"] == min(ends)
    assert ("were not read" in notes) is busy


def test_a_recorder_that_is_killed_leaves_no_process(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    sleep = f"62.{os.getpid()}"  # nobody else's
    killed = start(out, *wire.points(), "--kernel-drops", "--", *wire.in_left("sleep", sleep))
    wait_until(lambda: any(line.startswith(f"sleep {sleep}") for _, line in running()), "the command runs")
    children = [
        Path("/proc") / child for child in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    ]
    assert len(children) >= 3
    killed.kill()
    killed.communicate(timeout=LONG_S)
    wait_until(lambda: not any(child.exists() for child in children), "its children end")
    wait_until_deserted(wire.left, wire.right)


def test_tools_that_are_missing_are_noted(tmp_path: Path, wire: Wire) -> None:
    """Without nft and ethtool there are no rule sets and features; there is a recording."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("tcpdump", "ip", "bridge", "ping", "sh", "cat", "python3"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    out = tmp_path / "run"
    record(out, *wire.points(), *QUICK, "--", *wire.ping(5), PATH=str(tools))
    missing = (out / "context" / "missing.txt").read_text()
    assert "nft -j list counters" in missing
    assert "ethtool -k eth0" in missing
    assert packets(out) == {"near": 10, "far": 10}
