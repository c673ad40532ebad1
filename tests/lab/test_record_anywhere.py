"""The recorder on interfaces that it knows nothing of: every option, held against what was sent."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from capture_scripts import record as recorder
from capture_scripts import socket_filters
from capture_scripts.processes import run
from tests.conftest import CommandLine
from tests.lab.conftest import Wire, captures, packets, record, run_toml, start, wait_for

pytestmark = pytest.mark.lab
QUICK = ("--threshold", 0.1)


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
        outward = np.array([True, False] * 30) if name == "near" else np.array([False, True] * 30)
        assert (found["direction"] == np.where(outward, 2, 1)).all()
        (interface,) = file.capture.interfaces
        assert (interface.received, interface.dropped) == (60, 0)
        assert sorted(log.name for log in (out / "captures").glob(f"{name}*.log")) == [
            f"{name}.in.log",
            f"{name}.out.log",
        ]


def test_directions_under_traffic_are_never_mixed_up(tmp_path: Path, wire: Wire) -> None:
    """The filters are attached while packets fly: none that came before may carry a wrong direction."""
    out = tmp_path / "run"
    background = subprocess.Popen(wire.ping(3000, "-i", "0.001"), stdout=subprocess.DEVNULL)
    try:
        record(out, *wire.points(), "--direction", "--snaplen", 64, "--duration", 0.5, *QUICK)
    finally:
        background.terminate()
        background.wait()
    for name, file in captures(out).items():
        found = file.capture.packets
        kinds = np.array([file.data[start + 14 + 20] for start in found["offset"]])
        assert len(found) > 500
        assert (found["direction"] == np.where((kinds == 8) == (name == "near"), 2, 1)).all()


def test_one_capture_of_all_devices(tmp_path: Path, wire: Wire) -> None:
    """LINUX_SLL2: points share a file per namespace; the names come from the namespace of the capture."""
    out = tmp_path / "run"
    run(["ip", "-n", wire.left, "link", "add", "idle", "type", "veth", "peer", "name", "idle2"])
    points = ["--points", f"near=eth0@{wire.left}", f"idle=idle@{wire.left}", f"far=eth0@{wire.right}"]
    record(out, *points, "--any", *QUICK, "--", *wire.ping(30))
    assert [point["captures"] for point in run_toml(out)["point"]] == [
        ["captures/any-1.pcapng"], ["captures/any-1.pcapng"], ["captures/any-2.pcapng"],
    ]  # fmt: skip
    file = captures(out)["near"].capture
    names = [interface.name for interface in file.interfaces]
    assert set(names) == {"near", "idle", "lo", "idle2"}
    assert {names[number] for number in file.packets["interface"]} == {"near"}
    assert list(file.packets["direction"]) == [2, 1] * 30
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


@pytest.mark.parametrize(("ending", "least"), [(("--count", "200@far"), 200), (("--duration", 0.7), 400)])
def test_endings_while_traffic_goes_on(tmp_path: Path, wire: Wire, ending: tuple[object, ...], least: int) -> None:
    """The network is never quiet; nothing is unread all the same, and both points saw the same packets."""
    out = tmp_path / "run"
    background = subprocess.Popen(wire.ping(5000, "-i", "0.002"), stdout=subprocess.DEVNULL)
    try:
        record(out, *wire.points(), *ending, *QUICK)
    finally:
        background.terminate()
        background.wait()
    assert not (out / "context" / "notes.txt").exists()
    window = run_toml(out)["window"]
    seen = []
    for file in captures(out).values():
        (interface,) = file.capture.interfaces
        times = file.capture.packets["ts"]
        assert interface.received == len(times) > least
        data = [bytes(file.data[p["offset"] : p["offset"] + p["captured"]]) for p in file.capture.packets]
        inside = (times > window["start_ns"]) & (times < window["end_ns"] - 5_000_000)
        seen.append({packet for packet, kept in zip(data, inside, strict=True) if kept})
    assert len(seen[0]) > least
    assert len(seen[0] ^ seen[1]) <= 2  # on the cable when the window opened or closed


def test_a_count_ends_the_command(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    began = time.monotonic()
    record(out, *wire.points(), "--count", 50, *QUICK, "--", *wire.ping(100_000, "-i", "0.005"))
    assert time.monotonic() - began < 10
    assert run(["ip", "netns", "pids", wire.left]) == ""
    assert 50 <= packets(out)["near"] < 400


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
    first = start(tmp_path / "first", *wire.points(), "--threshold", 1.5, "--", *wire.ping(200, "-i", "0.01"))
    wait_for(tmp_path / "first" / "context" / "ruleset-before.nft")
    record(tmp_path / "second", *wire.points(), *QUICK, "--duration", 0.3)
    _, said = first.communicate(timeout=30)
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

    def send() -> None:
        if busy:
            command = wire.ping(5000, "-i", "0.002")
        else:
            wait_for(out / "context" / "ruleset-before.nft")  # every point records by then
            command = wire.ping(20)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as pings:
            recorded.wait(10)
            pings.terminate()

    recorded = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert recorder.main([str(out), *wire.points(), "--duration", "1.3", "--threshold", "0.1"]) == 0
    finally:
        recorded.set()
        sender.join()
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
    killed = start(out, *wire.points(), "--kernel-drops", "--", *wire.in_left("sleep", "62.5"))
    wait_for(out / "context" / "ruleset-before.nft")
    time.sleep(0.3)
    children = [
        Path("/proc") / child for child in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    ]
    assert len(children) >= 3
    killed.kill()
    killed.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while run(["ip", "netns", "pids", wire.left]) or any(child.exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
