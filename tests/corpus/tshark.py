"""What tshark says about a capture file: frames, and for each its layers in order with their fields and positions.

PDML is read, not `-T fields`: it keeps which field belongs to which layer, where the layer lies in the frame, and which
packet is only quoted inside another (it stands below the ICMP layer). tshark runs in a profile of its own, in which
nothing is reassembled and only the protocols of docs/decoding.md are enabled, so that no dissector claims a tunnel's
UDP packet because of the other port or a guess, and no preference of the user counts.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

# `isl` is none of ours, but has Ethernet's link type: with it enabled it is seen that such a frame is another one.
ENABLED = {
    *("frame", "data", "eth", "ethertype", "vlan", "ieee8021ad", "mpls", "pppoe", "pppoes", "ppp", "llc", "isl"),
    *("null", "raw", "sll", "wlan", "wlan_ext", "wlan_radio", "wlan_aggregate", "radiotap", "prism", "wlancap"),
    *("ip", "ipv6", "ipv6.hopopts", "ipv6.routing", "ipv6.dstopts", "ipv6.fraghdr", "ah", "esp", "mipv6", "hip"),
    *("shim6", "tcp", "udp", "udplite", "sctp", "icmp", "icmpv6", "igmp"),
    *("gre", "vxlan", "vxlan_gpe", "geneve", "gtp", "nsh", "erspan", "tzsp"),
}

EXTENSION_LAYERS = frozenset(
    ("ipv6.hopopts", "ipv6.routing", "ipv6.dstopts", "ipv6.fraghdr", "ah", "mipv6", "hip", "shim6")
)

PREFERENCES = """
ip.defragment: FALSE
ip.tso_support: TRUE
ipv6.defragment: FALSE
ipv6.tso_support: TRUE
tcp.desegment_tcp_streams: FALSE
tcp.relative_sequence_numbers: FALSE
tcp.analyze_sequence_numbers: FALSE
tcp.check_checksum: FALSE
udp.try_heuristic_first: FALSE
sctp.reassembly: FALSE
wlan.defragment: FALSE
wlan.enable_decryption: FALSE
vlan.qinq_ethertype: 0x9100
"""

PCAP = {"a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "a1b2cd34", "34cdb2a1"}
_PRIVATE_USE = 147

# What is said on standard error where tshark stops reading, and the counter of our ledger that must say so.
_ENDINGS = (("cut short", "capture_cut"), ("damaged or corrupt", "capture_corrupt"), ("less than", "capture_corrupt"))


@dataclass
class Layer:
    """One protocol of a frame; `fields` are the shown texts by name, `inner` the IPv6 extension headers below it."""

    name: str
    position: int
    size: int
    fields: dict[str, list[str]] = field(default_factory=dict)
    inner: list[Layer] = field(default_factory=list)

    def text(self, name: str) -> str | None:
        """The text of the first field of that name."""
        found = self.fields.get(name)
        return found[0] if found else None

    def number(self, name: str) -> int | None:
        """The number of the first field of that name."""
        text = self.text(name)
        if text is None or text == "":
            return None
        return {"True": 1, "False": 0}[text] if text in ("True", "False") else int(text, 0)


@dataclass
class Frame:
    """One packet of a file as tshark sees it; `time` is its text, which begins with the whole seconds."""

    number: int
    link_type: str
    time: str | None
    captured: int
    length: int
    layers: list[Layer]


@dataclass
class Dissection:
    """One file as tshark sees it: whether it is a capture, and the counter of our ledger for the way it ended."""

    frames: list[Frame]
    opened: bool
    ended: str | None
    said: str


_profile: list[Any] = []  # the folder with the profile, once it is made


def profile() -> str:
    """A folder with the profile; it is removed when the process that made it ends."""
    if not _profile:
        folder = tempfile.TemporaryDirectory(prefix="pktrace-corpus-")
        _profile.extend((folder.name, folder))  # the folder stays as long as its object does
        listed = subprocess.run(["tshark", "-G", "protocols"], capture_output=True, text=True, check=True).stdout
        names = {line.split("\t")[2] for line in listed.splitlines() if line.count("\t") >= 2}
        Path(folder.name, "disabled_protos").write_text("".join(f"{name}\n" for name in sorted(names - ENABLED)))
        Path(folder.name, "preferences").write_text(PREFERENCES)
    return str(_profile[0])


def use_profile(folder: str) -> None:
    """Use the profile of another process, which sees to its end; pool workers end without clearing up."""
    if not _profile:  # a forked worker has it already; to let go of its object here would remove the folder
        _profile[:] = [folder]


def _environment() -> dict[str, str]:
    return os.environ | {"WIRESHARK_CONFIG_DIR": profile(), "TZ": "UTC", "LC_ALL": "C.UTF-8"}


def dissect(path: Path) -> Dissection:
    """Run tshark over a file.

    It refuses a pcap file of a link type that it does not know. The link type has 16 bits, beside which others may be
    set (draft-ietf-opsawg-pcap, 4); tshark takes them all. So it is given a copy without those. If it still does not
    know the link type: we do not decode that one either, and what remains is compared with a type for private use.
    """
    found = _dissect(path)
    for mask, link_type in ((0xFFFF, 0), (0, _PRIVATE_USE)):
        if found.opened and not any("Unknown" in frame.link_type for frame in found.frames):
            break
        data = bytearray(path.read_bytes())
        if data[:4].hex() not in PCAP or len(data) < 24:
            break
        order: Literal["big", "little"] = "big" if data[0] == 0xA1 else "little"
        data[20:24] = (int.from_bytes(data[20:24], order) & mask | link_type).to_bytes(4, order)
        with tempfile.NamedTemporaryFile(suffix=".pcap") as copy:
            copy.write(data)
            copy.flush()
            found = _dissect(Path(copy.name))
    return found


def _dissect(path: Path) -> Dissection:
    with tempfile.TemporaryFile() as errors:
        command = ["tshark", "-n", "-r", str(path), "-T", "pdml", "-d", "udp.port==8472,vxlan"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=_environment()) as process:
            assert process.stdout is not None
            frames = list(_frames(process.stdout))
        errors.seek(0)
        said = " ".join(
            line for line in errors.read().decode("utf-8", "replace").splitlines() if not line.startswith("Running as")
        )
    ended = next((counter for words, counter in _ENDINGS if words in said), None)
    if process.returncode and ended is None and frames:
        ended = "capture_corrupt"
    opened = not re.search("isn't a capture file|doesn't understand|doesn't support|not supported", said)
    if frames and frames[0].link_type in ("MIME", "JavaScript Object Notation"):
        opened = False  # guessed, where the first block contradicts itself
    return Dissection(frames, opened and (bool(frames) or not process.returncode or ended is not None), ended, said)


# Bytes that XML does not allow, or that are cut texts of other encodings: tshark 4.0 writes them as they are.
_PRINTABLE = bytes(value if 32 <= value < 127 or value in b"\t\n\r" else ord("?") for value in range(256))


def _frames(pdml: IO[bytes]) -> Iterator[Frame]:
    parser = ElementTree.XMLPullParser()
    while chunk := pdml.read(1 << 16):
        parser.feed(chunk.translate(_PRINTABLE))
        for _, element in parser.read_events():
            assert isinstance(element, ElementTree.Element)
            if element.tag == "packet":
                frame = _frame(element)
                if frame is not None:
                    yield frame
                element.clear()


def _frame(packet: ElementTree.Element) -> Frame | None:
    """The frame of a <packet>; None for a record that tshark numbers but that is no packet (a custom block, a log)."""
    protos = [proto for proto in packet if proto.tag == "proto"]
    place = next(index for index, proto in enumerate(protos) if proto.get("name") == "frame")
    if not protos[place].get("showname", "").startswith("Frame "):
        return None
    frame = _layer(protos[place])
    return Frame(
        number=frame.number("frame.number") or 0,
        link_type=_link_type(protos[place]),
        time=frame.text("frame.time_epoch"),
        captured=frame.number("frame.cap_len") or 0,
        length=frame.number("frame.len") or 0,
        layers=[_layer(proto) for proto in protos[place + 1 :]],
    )


def _link_type(proto: ElementTree.Element) -> str:
    """Wireshark's words for the link type of a frame."""
    for child in proto.iter("field"):
        if child.get("name") == "frame.encap_type":
            return re.sub(r"^[^:]*: | \(\d+\)$", "", child.get("showname", ""))
    return ""


def _layer(proto: ElementTree.Element) -> Layer:
    layer = Layer(proto.get("name", ""), int(proto.get("pos", "0")), int(proto.get("size", "0")))
    _collect(proto, layer)
    return layer


def _collect(element: ElementTree.Element, layer: Layer) -> None:
    """All fields below an element. Of protocols below it only IPv6 extension headers count, not a quoted packet."""
    for child in element:
        name = child.get("name", "")
        if child.tag == "field":
            layer.fields.setdefault(name, []).append(child.get("show", ""))
            _collect(child, layer)
        elif name in EXTENSION_LAYERS:
            layer.inner.append(_layer(child))


def frame_bytes(path: Path) -> list[bytes]:
    """The captured bytes of all frames, as tshark copies them."""
    command = ["tshark", "-r", str(path), "-F", "pcapng", "-w", "-"]
    data = subprocess.run(command, capture_output=True, env=_environment(), check=False).stdout
    frames, at = [], 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("=II", data, at)  # written by tshark in this machine's byte order
        if kind == 6:
            captured = struct.unpack_from("=I", data, at + 20)[0]
            frames.append(data[at + 28 : at + 28 + captured])
        elif kind == 3:
            original = struct.unpack_from("=I", data, at + 8)[0]
            frames.append(data[at + 12 : at + 12 + min(original, length - 16)])
        at += length
    return frames
