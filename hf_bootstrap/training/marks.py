"""The token counts at which a run is measured, and when it is worth asking whether the next one is reached."""

import itertools
from collections.abc import Callable, Iterable, Iterator

__all__ = ["Marks", "geometric_marks"]

# Geometric marks begin here: before a few hundred steps a loss says more about warm-up than about data.
_FIRST = 100_000


def geometric_marks(first: int, ratio: float = 2.0) -> Iterator[int]:
    """Token counts at which to measure: `first`, then each `ratio` times the last, without end."""
    mark = float(first)
    while True:
        yield round(mark)
        mark *= ratio


class Marks:
    """The marks of a run and where it stands among them.

    Counts are summed over processes only when they may have reached the next mark: that sum waits for the device. Going
    half of the way that the fastest steps so far could make, it is asked for a few times a mark, and at every step
    close to it.

    Args:
        asked: "geometric", or trained tokens.
        ratio: of geometric marks.

    Attributes:
        next: the mark to come; None after the last.
    """

    def __init__(self, asked: str | Iterable[int], ratio: float = 2.0) -> None:
        self._asked = None if asked == "geometric" else sorted(map(int, asked))
        self._ratio = ratio
        self._marks: Iterator[int] = iter(())
        self.next: int | None = None
        self._look_at, self._fastest = 0, 0.0

    def begin(self, tokens: int, step: int) -> None:
        """Stand at `tokens` trained tokens, a mark that lies there still to come; a run may begin again earlier."""
        self._marks = geometric_marks(_FIRST, self._ratio) if self._asked is None else iter(self._asked)
        self._fastest = 0.0
        self._go_on(step, lambda mark: mark >= tokens)

    def pass_by(self, tokens: int, step: int) -> None:
        """Leave every mark up to `tokens` behind."""
        if self.next is not None and self.next > tokens:
            self._marks = itertools.chain([self.next], self._marks)
        self._go_on(step, lambda mark: mark > tokens)

    def _go_on(self, step: int, to: Callable[[int], bool]) -> None:
        self.next = next(filter(to, self._marks), None)
        self._look_at = step + 1

    def is_reached(self, step: int, totals: Callable[[], tuple[int, int, int]]) -> bool:
        """Whether the next mark is.

        Args:
            step: that has just been taken.
            totals: trained tokens, those seen, and slots, over all processes; called only when need be.
        """
        if self.next is None or step < self._look_at:
            return False
        tokens, _, slots = totals()
        self._fastest = max(self._fastest, slots / step)
        self._look_at = step + max(1, int((self.next - tokens) / (2 * self._fastest)))
        return tokens >= self.next
