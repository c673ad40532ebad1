"""The text beside a recorded fixture, with the figures of that very recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .plan import MarkedPacket

_TEXT = """\
# service-chain: a recorded run with its truth

Real packets through a real chain, recorded by `capture_scripts/make_fixture.py` in network namespaces:

```
client -- uplink [switch] switchport -- {{filter}} -- vnic -- pvm1          pvm3 (no agent) -- vnic3 [switch]
                                    punt -- service -- return
```

To make it anew, as root: `python capture_scripts/make_fixture.py --replace fixtures/service-chain`. The plan
of the marked packets is the same each time (its seed is fixed); times, ports of the kernel and what kernel
TCP lost are not.

## What is in it

* `run.toml`, `captures/` (one sealed pcapng and tcpdump's log per point, {snaplen} bytes kept per packet),
  `context/` (rules, counters and rule sets before and after, links, offloads, sysctls, versions).
* `truth.parquet`: a row per marked packet, written from the sender's plan. `truth.json`: what the drop
  counters and rule counters said. Neither was made from captures, and the analysis never reads either.

Traffic: {marked} marked packets (TCP, UDP, ICMP and ICMPv6 over IPv4 and IPv6, both directions, every rule,
both defaults, and the machine without an agent), {identical_sent} identical UDP datagrams with IP ID 0,
kernel TCP to port {tcp_port} in both directions ({tcp_percent} % of it is dropped in the service) and to port
8080 past the service, pings, and UDP requests with their answers. Segmentation and checksum offload were off
at the end hosts.

| point | packets |
|---|---|
{points}

Nothing was dropped by any capture: captured + dropped = received at every point, with 0 dropped.

## What is true of it

Fates of the marked packets:

{fates}

Where packets were lost (the only losses in this run):

| path | stage | what | packets | counter |
|---|---|---|---|---|
{losses}

What hit which rule, marked or not (counters set to zero when all points recorded, read after the traffic):

| path | rule | action | packets | counter |
|---|---|---|---|---|
{rules}

A marked packet that is lost in the filter's stage or in the bypass is dropped behind the filter, on the way
out of it: its rule has counted it. So for every rule the counter equals the packets that were seen at the
filter's input (`switchport` for ingress, `vnic` for egress) and fit it.

{self_check}

## Joining the truth to tables

A marked packet's payload starts with `marker` (14 characters: drop code, `PKTR`, path letter, sequence).

* TCP and UDP: (`source`, `destination`, `protocol`, `sport`, `dport`) is unique in the run; `tcp_seq` and,
  for IPv4, `ip_id` must then agree.
* ICMP: (`source`, `destination`, `protocol`, `ip_id`, `length`) is unique: an IP ID is used once by the
  senders, and no ping has the length of a marked packet.
* ICMPv6: (`source`, `destination`, `icmp_type`, `icmp_id`, `icmp_seq`) is unique. These are columns of the
  observations, so join those and go to the trajectory from there. Pings have sequence numbers below 1000.
* The identical datagrams cannot be told apart, so only their number at each stage is true (`truth.json`).

Recorded on {kernel} with {tools}.
"""


def _table(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def readme(plan: Sequence[MarkedPacket], truth: Mapping[str, Any], figures: Mapping[str, Any], snaplen: int) -> str:
    """README.md; ``truth`` as in truth.json, ``figures`` of the self check, ``snaplen`` in bytes."""
    identical = truth["identical"]
    tcp = truth["kernel_tcp"]
    losses: list[Sequence[object]] = [
        (loss["path"], loss["stage"], f"marked, code {loss['code']}", loss["packets"], loss["counter"])
        for loss in truth["marked"]["lost"]
    ]
    losses += [
        (loss["path"], loss["stage"], f"kernel TCP, port {tcp['port']}", loss["packets"], loss["counter"])
        for loss in tcp["lost"]
    ]
    losses.append(
        (
            identical["path"],
            identical["lost_stage"],
            "identical datagrams",
            identical["lost"],
            identical["counter"],
        )
    )
    rules = [
        (rule["path"], rule.get("rule", "(default)"), rule["action"], rule["packets"], rule["counter"])
        for path in ("ingress", "egress")
        for rule in (*truth["rules"], *truth["defaults"])
        if rule["path"] == path
    ]
    fates = Counter(packet.fate for packet in plan)
    return _TEXT.format(
        snaplen=snaplen,
        marked=len(plan),
        identical_sent=identical["sent"],
        tcp_port=tcp["port"],
        tcp_percent=tcp["percent"],
        points=_table(figures["packets"].items()),
        fates="\n".join(f"* {fate}: {number}" for fate, number in sorted(fates.items())),
        losses=_table(losses),
        rules=_table(rules),
        self_check=_self_check(figures),
        kernel=truth["kernel"],
        tools=", ".join(f"{tool} {version}" for tool, version in truth["tools"].items()),
    )


def _self_check(figures: Mapping[str, Any]) -> str:
    lost = figures["kernel_tcp_lost"]
    return (
        "The recording was checked before it was kept (`capture_scripts/check_run.py`):\n\n"
        f"* each of the {figures['marked']} markers was seen once at exactly the points of the plan;\n"
        f"* kernel TCP lost {lost['ingress']} packets on the ingress path and {lost['egress']} on the egress "
        "path between punt\n  and return, as counted, and none elsewhere;\n"
        f"* all {len(figures['rules'])} rule counters equal what was seen at the filter's input;\n"
        "* no other packet was lost or added."
    )
