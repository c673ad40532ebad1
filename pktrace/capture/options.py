"""Options of pcapng blocks (draft-ietf-opsawg-pcapng, section 3.5). Bytes in, values out."""

from __future__ import annotations

from collections.abc import Iterator

_MOST_OPTIONS = 1000


class Options:
    """The options of one block; whatever does not fit its block ends the list."""

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
        """A string option; bytes that are no UTF-8 are shown as escapes."""
        value = self._first(code)
        return None if value is None else value.rstrip(b"\0").decode("utf-8", "backslashreplace")

    def comments(self) -> list[str]:
        """All comments (opt_comment, code 1)."""
        return [value.decode("utf-8", "backslashreplace") for code, value in self._found if code == 1]

    def first_byte(self, code: int, default: int) -> int:
        """A one-byte option."""
        value = self._first(code)
        return value[0] if value else default

    def signed(self, code: int, default: int) -> int:
        """A signed 64 bit option (if_tsoffset)."""
        value = self._first(code)
        return self._number(value, signed=True) if value is not None and len(value) == 8 else default

    def unsigned(self, code: int) -> int | None:
        """An unsigned 64 bit option; all ones means "not available" in some writers."""
        value = self._first(code)
        if value is None or len(value) != 8:
            return None
        number = self._number(value)
        return None if number == (1 << 64) - 1 else number

    def time(self, code: int) -> int | None:
        """A time in ticks: two 32 bit words, the high one first in either byte order."""
        value = self._first(code)
        if value is None or len(value) != 8:
            return None
        return (self._number(value[:4]) << 32) | self._number(value[4:])

    def capture_filter(self) -> str | None:
        """if_filter (code 11): a type byte, then the filter; type 0 is the filter's text."""
        value = self._first(11)
        if not value:
            return None
        return value[1:].decode("utf-8", "backslashreplace") if value[0] == 0 else None
