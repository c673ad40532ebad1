"""Numbers of protocols (IANA, Protocol Numbers) and flags of TCP (RFC 9293 3.1) of the decoder and of matching."""

from __future__ import annotations

ICMP, TCP, UDP, ESP, AH, ICMPV6, SCTP, UDP_LITE = 1, 6, 17, 50, 51, 58, 132, 136
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
