"""Makes the hashes of first payload bytes comparable between packets whose headers were rewritten."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES, content_again
from pktrace.decode.identity import secret
from pktrace.decode.rows import rows_at
from pktrace.observations.observe import Observations
from pktrace.observations.stream import rows_beside_bytes


class Contents:
    """The payload hashes of a run's packets, made comparable at first use."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._comparable = False

    def make_comparable(self) -> None:
        """See `make_contents_comparable`."""
        if not self._comparable:
            make_contents_comparable(self._observations)
            self._comparable = True


def make_contents_comparable(observations: Observations) -> None:
    """Hash anew the payload bytes that every capture kept: the files are read once more.

    Digests are comparable between packets with equal network headers, and share a bound only among these. Payload
    hashes compare packets whose headers were rewritten, and need one bound for all. ICMP errors quote packets, and a
    translator of their headers also rewrites the quoted ones (RFC 5508 4.2), so only the invariant bits of the quote
    are hashed.
    """
    if observations.run is None:
        return
    rows = observations.rows
    wanted = _quotes_another(rows) if observations.digest_payload_bytes >= PAYLOAD_BYTES else None
    if wanted is not None and not wanted.any():
        return
    for number in range(len(observations.captures)):
        of_file = rows["capture"] == number
        mine = np.flatnonzero(of_file if wanted is None else of_file & wanted)
        if not len(mine):
            continue
        mine = mine[np.argsort(rows["byte_offset"][mine])]
        again = rows_at(rows, mine)
        reader = observations.reader(number)
        for batch, some in rows_beside_bytes(reader, np.ascontiguousarray(again["byte_offset"])):
            content_again(batch.data, batch.base, again[some], observations.digest_payload_bytes, secret())
        for column in ("content", "icmp_id"):
            rows[column][mine] = again[column]


def _quotes_another(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bool per row: an ICMP error."""
    found: np.ndarray[Any, Any] = (rows["has"] & (field.HAS_ICMP | field.HAS_ECHO)) == field.HAS_ICMP
    six, kind = rows["ip_version"] == 6, rows["icmp_type"]
    found &= np.where(six, (kind >= 1) & (kind <= 4), np.isin(kind, (3, 4, 5, 11, 12)))
    return found
