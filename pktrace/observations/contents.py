"""Makes the hashes of first payload bytes comparable where some capture kept fewer of them than others."""

from __future__ import annotations

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.decode.digest import PAYLOAD_BYTES, content_again
from pktrace.decode.rows import rows_at
from pktrace.observations.observe import Observations
from pktrace.observations.stream import rows_beside_bytes


def make_contents_comparable(observations: Observations) -> None:
    """Hash anew the payload bytes that every capture kept: the files are read once more.

    Digests are comparable between packets with equal network headers, and bounded for these alone; the contents serve
    to compare packets whose headers were rewritten, and need one bound for all.
    """
    if observations.digest_payload_bytes >= PAYLOAD_BYTES or observations.run is None:
        return
    rows = observations.rows
    for number, name in enumerate(observations.captures):
        mine = np.flatnonzero(rows["capture"] == number)
        mine = mine[np.argsort(rows["byte_offset"][mine])]
        again = rows_at(rows, mine)
        reader = CaptureReader(observations.run.folder / name, name)
        for batch, some in rows_beside_bytes(reader, np.ascontiguousarray(again["byte_offset"])):
            content_again(batch.data, batch.base, again[some], observations.digest_payload_bytes)
        rows["content"][mine] = again["content"]
