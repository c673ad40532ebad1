"""The ledger: everything that an analysis does not use is counted here, by declared name.

A counter has a severity and a sentence that explains its meaning for the results: `info` (nothing is lost), `data_loss`
(packets that passed may be missing), `error` (the input is damaged). Unknown is not zero: a counter of its own marks a
number that cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["info", "data_loss", "error"]


@dataclass(frozen=True)
class Counter:
    """One declared counter."""

    name: str
    severity: Severity
    sentence: str


_DECLARED = (
    Counter("capture_cut", "error", "The file ends in the middle of a block or packet; it is used up to the cut."),
    Counter("capture_corrupt", "error", "A block or record has an impossible length; reading stopped there."),
    Counter(
        "capture_empty", "error", "The file has 0 bytes: nothing was written, so absence at its point proves nothing."
    ),
    Counter(
        "capture_unreadable",
        "error",
        "The file cannot be used at all; other files are used. Absence at its point proves nothing.",
    ),
    Counter("capture_drops", "data_loss", "Packets that the capture dropped, by the count of its tool."),
    Counter("capture_drops_unknown", "info", "The capture does not say how many packets it dropped."),
    Counter("capture_unread", "data_loss", "Packets received by the capture filter but not in the file (unread tail)."),
    Counter(
        "capture_missed",
        "data_loss",
        "Packets seen before and behind a point, but not by its capture, although it ran: it missed them, could not "
        "decode them (encrypted), or they took another way.",
    ),
    Counter("recording_incomplete", "data_loss", "The recorder marked the run as incomplete (context/incomplete.txt)."),
    Counter(
        "excerpt",
        "info",
        "Files cut out of a larger capture, with its statistics; their first and last packets count as their ends.",
    ),
    Counter("unknown_block", "info", "Blocks of a type that pktrace does not read; skipped."),
    Counter("unknown_link_type", "data_loss", "Packets of a link type that is not decoded; rows with null fields."),
    Counter("no_timestamp", "data_loss", "Packets without a time stamp (simple packet blocks); not followed."),
    Counter("timestamp_out_of_range", "error", "Packets whose time does not fit 64 bit nanoseconds; not followed."),
    Counter("not_ip", "info", "Frames that are not IP (ARP, LLDP and the like); not followed."),
    Counter(
        "hidden_packet",
        "data_loss",
        "802.11 data frames that are encrypted, later fragments or aggregates: the packets inside cannot be read.",
    ),
    Counter(
        "partial_checksum",
        "info",
        "Packets whose checksum is left to the network interface (offload); normal at virtual interfaces.",
    ),
    Counter(
        "malformed_ip", "info", "IP packets whose headers contradict themselves; decoded as far as they make sense."
    ),
    Counter("cut_header", "info", "Packets whose headers the snap length cut; fields are null."),
    Counter("other_interface", "info", "Packets of interfaces of the file that the point does not name; not used."),
    Counter("other_direction", "info", "Packets of the direction that the point does not ask for; not used."),
    Counter("no_direction", "data_loss", "Packets without a direction at a point that asks for one; not followed."),
    Counter("no_path", "info", "IP packets that fit no path at their first sighting; not followed."),
    Counter("off_path", "info", "Sightings of a followed packet at a point that is not on its path; not used."),
    Counter(
        "copies_network",
        "info",
        "Further sightings of a packet at a point, while the point before or behind on its path has further ones, "
        "too: duplicates that the network made (RFC 5560).",
    ),
    Counter(
        "copies_here",
        "info",
        "Further sightings of a packet at one point, while the next point saw it once: copies that the capture made "
        "(mirror port, flooded frame), or duplicates that were lost or removed before the next point.",
    ),
    Counter(
        "copies_last",
        "info",
        "Further sightings of a packet at its last point: no later point shows whether the network made them.",
    ),
    Counter(
        "copies_retried",
        "info",
        "Further sightings that are 802.11 frames with the retry bit: sent again on the link, not by the sender.",
    ),
    Counter(
        "copies_rewritten",
        "info",
        "Egress sightings: a point that sees both sides of a translator saw these packets arrive, and leave "
        "rewritten. They are no duplicates.",
    ),
    Counter(
        "copies_first",
        "data_loss",
        "Packets that went no further, and that the first point of their path saw within 1 ms of one with the same "
        "bytes: copies made by the capture or before it, or lost packets. They are ambiguous.",
    ),
    Counter("outside_window", "info", "Followed packets first seen outside the window in which all points captured."),
    Counter(
        "against_path",
        "data_loss",
        "Packets that passed points in the opposite order, by their time stamps: give the path a `match`, and add a "
        "path for the other direction. Late stamps and a stepped clock have the same effect.",
    ),
    Counter(
        "clock_contradicted",
        "data_loss",
        "Packets of a stage that came too early, or all equally late: its points share no clock, or stand in the "
        "wrong order.",
    ),
    Counter(
        "order_contradicted",
        "data_loss",
        "Packets that came to a point before the one that run.toml puts first, while more packets were seen at "
        "the later point alone: these points stand in the wrong order, and losses between them are unknown.",
    ),
    Counter("clock_unknown", "data_loss", "Points whose clock offset could not be estimated from certain matches."),
    Counter("counter_missing", "info", "Rules whose data-plane counter is missing in context/."),
    Counter(
        "context_unread",
        "info",
        "Files in context/ that cannot be read, or are more than 8 MiB (together more than 32 MiB); their counters are "
        "not used.",
    ),
    Counter("kernel_drops_absent", "info", "The run has no record of kernel drops (no second witness)."),
)
DECLARED = {counter.name: counter for counter in _DECLARED}


class Ledger:
    """Counts by (counter, point, capture file). Adding zero records nothing."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str | None, str | None, str], int] = {}

    def add(
        self, counter: str, count: int = 1, *, point: str | None = None, capture: str | None = None, detail: str = ""
    ) -> None:
        """Add to a declared counter; an undeclared name is a programming error (KeyError).

        A `detail` is a further sentence behind the counter's own; different details count separately.
        """
        if counter not in DECLARED:
            raise KeyError(counter)
        if count:
            key = (counter, point, capture, detail)
            self._counts[key] = self._counts.get(key, 0) + int(count)

    def merged(self, other: Ledger) -> Ledger:
        """A new ledger with the counts of both."""
        both = Ledger()
        for source in (self, other):
            for (counter, point, capture, detail), count in source._counts.items():
                both.add(counter, count, point=point, capture=capture, detail=detail)
        return both

    def total(self, counter: str) -> int:
        """Sum of one counter over all points and files."""
        return sum(count for key, count in self._counts.items() if key[0] == counter)

    def rows(self) -> Iterator[tuple[Counter, str | None, str | None, int]]:
        """All counts, worst severity first, then by name, point and file."""
        rank = {"error": 0, "data_loss": 1, "info": 2}
        for (name, point, capture, detail), count in sorted(
            self._counts.items(), key=lambda item: (rank[DECLARED[item[0][0]].severity], *map(str, item[0]))
        ):
            counter = DECLARED[name]
            yield replace(counter, sentence=f"{counter.sentence} {detail}".rstrip()), point, capture, count
