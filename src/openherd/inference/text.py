"""From tokens to the text that a reader sees: whole characters, ended by stop strings.

A token may hold part of a character, and a stop string may lie across tokens. Text comes out once it can no longer be part of a
stop string. Where stop strings overlap, the one that begins first ends the text, of those that begin together the shortest: the
text is the same however its bytes are cut into tokens.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Bytes in, text out."""

    def __init__(self, stop_strings: Sequence[str] = ()) -> None:
        self.stopped: str | None = None
        """The stop string that ended the text; it is no part of it."""
        self._stop_strings = tuple(stop_strings)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token_bytes: bytes) -> str:
        """Take a token's bytes; the text that is certain by now. Bytes that are no UTF-8 become U+FFFD; after a stop string it is
        empty."""
        return self._take(self._decoder.decode(token_bytes), final=False)

    def finish(self) -> str:
        """The text that was held back, when no more bytes come. A stop string may be found only now."""
        return self._take(self._decoder.decode(b"", final=True), final=True)

    def _take(self, text: str, final: bool) -> str:
        if self.stopped is not None:
            return ""
        self._held += text
        found = [(place, len(stop), stop) for stop in self._stop_strings if (place := self._held.find(stop)) >= 0]
        end, _, stop = min(found, default=(len(self._held), 0, None))
        safe = len(self._held) if final else self._first_begun()
        if stop is not None and end <= safe:
            self.stopped = stop
            safe = end
        piece, self._held = self._held[:safe], self._held[safe:]
        return piece

    def _first_begun(self) -> int:
        """Where in the held text the first stop string begins that is not whole yet; its end where none does."""
        held = self._held
        longest = max(map(len, self._stop_strings), default=0)
        for place in range(max(0, len(held) - longest + 1), len(held)):
            if any(len(stop) > len(held) - place and stop.startswith(held[place:]) for stop in self._stop_strings):
                return place
        return len(held)
