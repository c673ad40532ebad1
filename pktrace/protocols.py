"""Numbers of protocols (IANA, Protocol Numbers) and flags of TCP (RFC 9293 3.1) that matching and judging ask for."""

from __future__ import annotations

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
