"""The traffic of a recording: marked packets, identical packets, kernel TCP, pings, UDP requests and answers.

``run_traffic`` is called by the recorder. It starts this file again inside the namespaces, once per sender
and server; every loop there is bounded in number and in time.
"""

from __future__ import annotations

import argparse
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

import dpkt

from .known_loss import IDENTICAL, IDENTICAL_SENT, KERNEL_TCP_PORT, MARK
from .plan import DEFAULT_RATE_PPS, DEFAULT_SEED, ICMP, ICMP_ID, TCP, UDP, MarkedPacket, make_plan
from .processes import Children, LabError, in_namespace, python_script, wait_all
from .quiet import wait_until_closed
from .topology import CLIENT, END_HOSTS, PVM1, PVM3, Lab

IDENTICAL_GAP_S = 0.005
IDENTICAL_SPORT = 19999
IDENTICAL_DPORT = 53
BULK_BYTES = 700_000
FORWARDED_PORT = 8080
FORWARDED_BYTES = 40_000
UDP_PORTS = (53, 4000)
UDP_REQUESTS = 8
PINGS = 12
# Deadlines guard against hanging. A server waits longer than all that comes before its client may take: one that
# gave up sooner would answer the upload by a reset.
_PHASE_TIMEOUT_S = 300.0
_SOCKET_TIMEOUT_S = 2 * _PHASE_TIMEOUT_S
_READY_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 60.0
_CHUNK = 16_384


def frame(packet: MarkedPacket) -> bytes:
    """The Ethernet frame of a planned packet, checksums included, as it leaves its sender."""
    kind = packet.kind
    source, destination = kind.addresses()
    transport: dpkt.Packet
    if kind.protocol == UDP:
        transport = dpkt.udp.UDP(sport=packet.sport, dport=packet.dport, data=packet.payload)
        transport.ulen = len(transport)
    elif kind.protocol == TCP:
        flags = dpkt.tcp.TH_PUSH | dpkt.tcp.TH_ACK
        transport = dpkt.tcp.TCP(
            sport=packet.sport, dport=packet.dport, seq=packet.tcp_sequence, ack=1, flags=flags, win=512
        )
        transport.data = packet.payload
    else:
        # The identifier and sequence fields of the echo message; other types carry the same eight bytes.
        echo = dpkt.icmp.ICMP.Echo(id=ICMP_ID, seq=packet.icmp_sequence, data=packet.payload)
        layer = dpkt.icmp.ICMP if kind.protocol == ICMP else dpkt.icmp6.ICMP6
        transport = layer(type=kind.icmp_type, code=0, data=echo if kind.protocol == ICMP else bytes(echo))
    return _framed(kind.path, kind.version, kind.protocol, source, destination, packet.ip_id or 0, transport)


def _framed(
    path: str, version: int, protocol: int, source: str, destination: str, ip_id: int, transport: dpkt.Packet
) -> bytes:
    addresses = [
        socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, text) for text in (source, destination)
    ]
    if version == 4:
        network = dpkt.ip.IP(src=addresses[0], dst=addresses[1], p=protocol, id=ip_id, ttl=64, data=transport)
        network.len = len(network)
    else:
        network = dpkt.ip6.IP6(src=addresses[0], dst=addresses[1], nxt=protocol, hlim=64, plen=len(transport))
        network.extension_hdrs = {}
        network.p = protocol
        network.data = transport
    ends = {
        "ingress": (CLIENT, PVM1),
        "egress": (PVM1, CLIENT),
        "to-pvm3": (CLIENT, PVM3),
        "from-pvm3": (PVM3, CLIENT),
    }
    near, far = ends[path]
    return bytes(
        dpkt.ethernet.Ethernet(
            src=bytes.fromhex(near.mac.replace(":", "")),
            dst=bytes.fromhex(far.mac.replace(":", "")),
            type=dpkt.ethernet.ETH_TYPE_IP if version == 4 else dpkt.ethernet.ETH_TYPE_IP6,
            data=network,
        )
    )


def identical_frame() -> bytes:
    """The datagram that is sent again and again, with IP ID 0: its copies cannot be told apart."""
    payload = f"{IDENTICAL}{MARK.decode()}I{0:08d} the same each time".encode()
    transport = dpkt.udp.UDP(sport=IDENTICAL_SPORT, dport=IDENTICAL_DPORT, data=payload)
    transport.ulen = len(transport)
    return _framed("ingress", 4, UDP, CLIENT.ipv4, PVM1.ipv4, 0, transport)


def send_frames(frames: Sequence[tuple[float, bytes]]) -> None:
    """Send each frame at its time (seconds after the start) out of eth0 of the namespace we are in."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind(("eth0", 0))
        start = time.monotonic()
        for due_s, data in frames:
            wait = start + due_s - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            out.send(data)


def serve_tcp(port: int, connections: int) -> None:
    """Accept ``connections`` uploads, one after the other; answer each with the number of bytes that came."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        listener.settimeout(_SOCKET_TIMEOUT_S)
        print("ready", flush=True)
        for _ in range(connections):
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(_SOCKET_TIMEOUT_S)
                received = 0
                while data := connection.recv(_CHUNK):
                    received += len(data)
                connection.sendall(received.to_bytes(8, "big"))


def upload_tcp(address: str, port: int, size: int) -> None:
    """Send ``size`` bytes and check that the other side got as many. LabError otherwise."""
    content = random.Random(size).randbytes(size)
    with socket.create_connection((address, port), timeout=_SOCKET_TIMEOUT_S) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(8):
            answer += data
    if int.from_bytes(answer, "big") != size:
        raise LabError(f"{address} port {port}: sent {size} bytes, {int.from_bytes(answer, 'big')} came")


def serve_udp(port: int, requests: int) -> None:
    """Answer ``requests`` datagrams."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", port))
        server.settimeout(_SOCKET_TIMEOUT_S)
        print("ready", flush=True)
        for _ in range(requests):
            request, sender = server.recvfrom(2048)
            server.sendto(b"answer to " + request, sender)


def request_udp(address: str, port: int, requests: int) -> None:
    """Send numbered requests and wait for the answer to each. LabError when one does not come in time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(_ANSWER_TIMEOUT_S)
        client.connect((address, port))
        for number in range(requests):
            client.send(f"request {number:04d} to port {port}".encode())
            try:
                client.recv(2048)
            except TimeoutError as error:
                raise LabError(f"{address} port {port}: no answer to request {number}") from error
            time.sleep(0.02)


def run_traffic(lab: Lab, seed: int = DEFAULT_SEED, rate_pps: float = DEFAULT_RATE_PPS) -> None:
    """All of it, in a lab that is up; some 3 s. LabError when anything does not end as planned."""
    with Children() as children:

        def start(role: str, *arguments: str) -> subprocess.Popen[bytes]:
            return children.start(in_namespace(lab.namespace(role), python_script("traffic.py", *arguments)))

        def serve(role: str, *arguments: str) -> subprocess.Popen[bytes]:
            command = in_namespace(lab.namespace(role), python_script("traffic.py", *arguments))
            server = children.start(command, stdout=subprocess.PIPE)
            _wait_for_ready(server, " ".join(arguments))
            return server

        def ping(address: str, count: int) -> subprocess.Popen[bytes]:
            command = ["ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", "2", address]
            return children.start(in_namespace(lab.namespace("client"), command))

        servers = [serve("pvm1", "serve-udp", str(port), str(2 * UDP_REQUESTS)) for port in UDP_PORTS]
        servers += [
            serve("pvm1", "serve-tcp", str(KERNEL_TCP_PORT), "1"),
            serve("client", "serve-tcp", str(KERNEL_TCP_PORT), "1"),
            serve("pvm1", "serve-tcp", str(FORWARDED_PORT), "2"),
        ]
        senders = [start(host.role, "send", host.role, str(seed), str(rate_pps)) for host in END_HOSTS]
        senders += [start("client", "send-identical")]
        senders += [ping(address, PINGS) for address in (PVM1.ipv4, PVM1.ipv6)]
        senders += [ping(address, PINGS // 2) for address in (PVM3.ipv4, PVM3.ipv6)]
        senders += [
            start("client", "request-udp", address, str(port), str(UDP_REQUESTS))
            for port in UDP_PORTS
            for address in (PVM1.ipv4, PVM1.ipv6)
        ]
        wait_all(senders, _PHASE_TIMEOUT_S, "traffic")
        for role, address, port, size in (
            ("client", PVM1.ipv4, FORWARDED_PORT, FORWARDED_BYTES),
            ("client", PVM1.ipv6, FORWARDED_PORT, FORWARDED_BYTES),
            ("client", PVM1.ipv4, KERNEL_TCP_PORT, BULK_BYTES),
            ("pvm1", CLIENT.ipv6, KERNEL_TCP_PORT, BULK_BYTES),
        ):
            wait_all([start(role, "upload-tcp", address, str(port), str(size))], _PHASE_TIMEOUT_S, "traffic")
        wait_all(servers, _PHASE_TIMEOUT_S, "traffic")
    wait_until_closed([lab.namespace(host.role) for host in END_HOSTS])
    lab.wait_until_quiet()


def _wait_for_ready(server: subprocess.Popen[bytes], what: str) -> None:
    """A client that comes before its server would be answered with a reset, which is in no plan."""
    assert server.stdout is not None
    with server.stdout as words:
        readable, _, _ = select.select([words], [], [], _READY_TIMEOUT_S)
        if not readable or words.readline() != b"ready\n":
            raise LabError(f"traffic: {what} did not get ready")


def main(arguments: Sequence[str] | None = None) -> int:
    """The part of the traffic that runs inside one namespace; started by ``run_traffic``."""
    parser = argparse.ArgumentParser(prog="traffic.py", description=main.__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    fields: dict[str, tuple[Callable[..., None], dict[str, type]]] = {
        "send": (_send_planned, {"role": str, "seed": int, "rate_pps": float}),
        "send-identical": (_send_identical, {}),
        "serve-tcp": (serve_tcp, {"port": int, "connections": int}),
        "upload-tcp": (upload_tcp, {"address": str, "port": int, "size": int}),
        "serve-udp": (serve_udp, {"port": int, "requests": int}),
        "request-udp": (request_udp, {"address": str, "port": int, "requests": int}),
    }
    for part, (_, types) in fields.items():
        sub = parts.add_parser(part)
        for name, kind in types.items():
            sub.add_argument(name, type=kind)
    options = vars(parser.parse_args(arguments))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    function, types = fields[options["part"]]
    try:
        function(*(options[name] for name in types))
    except (LabError, OSError) as error:
        print(f"traffic: {options['part']}: {error}", file=sys.stderr)
        return 1
    return 0


def _send_planned(role: str, seed: int, rate_pps: float) -> None:
    """The part of the plan that ``role`` sends."""
    send_frames([(packet.due_s, frame(packet)) for packet in make_plan(seed, rate_pps) if packet.sender == role])


def _send_identical() -> None:
    data = identical_frame()
    send_frames([(number * IDENTICAL_GAP_S, data) for number in range(IDENTICAL_SENT)])


if __name__ == "__main__":
    sys.exit(main())
