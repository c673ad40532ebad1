"""Options of pcapng blocks (draft-ietf-opsawg-pcapng, section 3.5). Bytes in, values out."""

from __future__ import annotations

from collections.abc import Iterator

_MOST_OPTIONS = 1000
# Names of interfaces are at most some 60 characters on Linux and Windows; descriptions are a line of text.
LONGEST_TEXT = 1000


class Options:
    """The options of one block; an option that exceeds its block ends the list."""

    def __init__(self, body: bytes, big: bool) -> None:
        self._order = ">" if big else "<"
        self._found = list(self._walk(body, "big" if big else "little"))

    @staticmethod
    def _walk(body: bytes, order: str) -> Iterator[tuple[int, bytes]]:
        at = 0
        for _ in range(_MOST_OPTIONS):
            if at + 4 > len(body):
                return
            code = int.from_bytes(body[at : at + 2], order)  # type: ignore[arg-type]
            length = int.from_bytes(body[at + 2 : at + 4], order)  # type: ignore[arg-type]
            if code == 0 or at + 4 + length > len(body):
                return
            yield code, body[at + 4 : at + 4 + length]
            at += 4 + (length + 3) // 4 * 4

    def _first(self, code: int) -> bytes | None:
        return next((value for found, value in self._found if found == code), None)

    def _number(self, value: bytes, signed: bool = False) -> int:
        return int.from_bytes(value, "big" if self._order == ">" else "little", signed=signed)

    def text(self, code: int) -> str | None:
        """A string option; bytes that are no UTF-8 are shown as escapes, long ones are cut (LONGEST_TEXT)."""
        value = self._first(code)
        return None if value is None else _bounded(value.rstrip(b"\0").decode("utf-8", "backslashreplace"))

    def first_byte(self, code: int, default: int) -> int:
        """A one-byte option."""
        value = self._first(code)
        return value[0] if value else default

    def signed(self, code: int, default: int) -> int:
        """A signed 64 bit option (if_tsoffset)."""
        value = self._first(code)
        return self._number(value, signed=True) if value is not None and len(value) == 8 else default

    def capture_filter(self) -> str | None:
        """if_filter (code 11): a type byte, then the filter; type 0 is the filter's text."""
        value = self._first(11)
        if not value:
            return None
        return value[1:].decode("utf-8", "backslashreplace") if value[0] == 0 else None


def _bounded(text: str) -> str:
    """The text; a long text becomes its beginning and its length, so that different texts mostly stay different."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 30]}... ({len(text)} characters)"
