"""Clocks that drift, are set, or are off, told and untold, and points in the wrong order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.kit.kinds.model import Kind, Sent, datagram, ip_id, payload
from tests.kit.kinds.translations import TRANSLATIONS

_A, _B = "192.0.2.1", "192.0.2.2"
_BOTH_WAYS = [
    {"name": "there", "points": ["a", "b"], "match": {"destination": _B}},
    {"name": "back", "points": ["b", "a"], "match": {"destination": _A}},
]
_TOLD = {"a": "one", "b": "other"}
_SECOND = 1_000_000_000
_HALF_A_DAY_GAP_NS = 72 * _SECOND  # 600 packets


def _plain(number: int) -> Sent:
    return Sent([datagram(_A, _B, 5000, 6000, payload(number), ip_id(number))] * 2)


def _both_ways(number: int) -> Sent:
    ends = (_A, _B) if number % 2 == 0 else (_B, _A)
    return Sent([datagram(*ends, 5000, 5000, payload(number), ip_id(number))] * 2, back=number % 2 == 1)


def _translated(number: int) -> Sent:
    return Sent(
        [
            datagram("10.0.0.1", _B, 5000, 6000, payload(number), ip_id(number)),
            datagram(_A, _B, 5001, 6000, payload(number), ip_id(number)),
        ]
    )


def _ahead(clock: Callable[[int], int], **changes: object) -> Kind:
    return replace(Kind(("a", "b"), _plain, clock={"b": clock}), **changes)  # type: ignore[arg-type]


def _by(nanoseconds: int) -> Callable[[int], int]:
    return lambda time: nanoseconds


def _set(nanoseconds: int) -> Callable[[int], int]:
    return lambda time: nanoseconds if time > 20_000_000 else 0


def _drift(time: int) -> int:
    return time // 10_000  # 100 ppm


_SLOW = {"gap_ns": _HALF_A_DAY_GAP_NS, "may_overtake": False}
_TWO_WAYS = {"sent": _both_ways, "paths": _BOTH_WAYS}


def _of_queries(ahead: int) -> Kind:
    """NAT of flows of one packet, without IP IDs."""
    kind = TRANSLATIONS["queries-without-id"]
    return replace(kind, clock={"wan": _by(ahead)}, clocks={"wan": "wan"})


CLOCKS = {
    "clock-drifts-told": _ahead(_drift, clocks=_TOLD, **_SLOW),
    "clock-drifts-untold": _ahead(_drift, **_SLOW),
    "clock-drifts-told-both-ways": _ahead(_drift, clocks=_TOLD, **_SLOW, **_TWO_WAYS),
    "clock-drifts-untold-both-ways": _ahead(_drift, **_SLOW, **_TWO_WAYS),
    "clock-drifts-told-nat": _ahead(_drift, clocks=_TOLD, sent=_translated, **_SLOW),
    "clock-set-by-200-ms-told": _ahead(_set(_SECOND // 5), clocks=_TOLD),
    "clock-set-by-200-ms-back-untold-both-ways": _ahead(_set(-_SECOND // 5), **_TWO_WAYS),
    "clock-set-by-2-s-told-both-ways": _ahead(_set(2 * _SECOND), clocks=_TOLD, **_TWO_WAYS),
    "clock-37-s-ahead-told": _ahead(_by(37 * _SECOND), clocks=_TOLD),
    "clock-37-s-ahead-untold-both-ways": _ahead(_by(37 * _SECOND), **_TWO_WAYS),
    "clock-37-s-behind-untold-both-ways": _ahead(_by(-37 * _SECOND), **_TWO_WAYS),
    "clock-an-hour-ahead-untold": _ahead(_by(3600 * _SECOND)),
    "clock-20-ms-behind-untold": _ahead(_by(-_SECOND // 50)),
    "clock-20-ms-behind-untold-nat": _ahead(_by(-_SECOND // 50), sent=_translated),
    "clock-20-ms-behind-told-nat": _ahead(_by(-_SECOND // 50), clocks=_TOLD, sent=_translated),
    "clock-7-s-ahead-untold-nat": _ahead(_by(7 * _SECOND), sent=_translated),
    "clock-7-s-behind-untold-nat": _ahead(_by(-7 * _SECOND), sent=_translated),
    "clock-5-s-ahead-told-nat-of-queries": _of_queries(5 * _SECOND),
    "clock-3-ms-behind-told-nat-of-queries": _of_queries(-3 * _SECOND // 1000),
}
WRONG_ORDER = Kind(
    ("a", "b", "c", "d"), lambda number: Sent(_plain(number).looks[:1] * 4), gap_ns=500_000, stage_ns=5_000,
    jitter_ns=3_000, order=("a", "c", "b", "d"),
)  # fmt: skip
