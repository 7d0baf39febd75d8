"""How far a pass over the text is: a bar on a terminal, a line now and then in a log. Prints nothing itself but the bar."""

import sys
import time
from collections.abc import Callable

from recipes.system.columns import terminal_columns

LOG_EVERY_SECONDS = 20.0


class ByteProgress:
    """Counts the bytes of one pass; `total` 0 means that nobody knows yet how many there are."""

    def __init__(self, label: str, total: int, *, show_bar: bool, log: Callable[[str], None]) -> None:
        self._label, self._total, self._log = label, total, log
        self._start = self._last_log = time.monotonic()
        self._bar = _build_bar(label, total) if show_bar and terminal_columns() else None
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count some more bytes, and tell if it is time to."""
        self.num_bytes += num_bytes
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(num_bytes)
        elif now - self._last_log > LOG_EVERY_SECONDS:
            self._last_log = now
            self._log(f"{self._label}: {self}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        of = f" of {self._total / 1e6:.1f}" if self._total else ""
        return f"{self.num_bytes / 1e6:.1f}{of} MB in {seconds:.1f} s, {self.num_bytes / 1e6 / seconds:.1f} MB/s"


def _build_bar(label: str, total: int):  # type: ignore[no-untyped-def]  # tqdm ships no types
    from tqdm import tqdm

    return tqdm(desc=label, total=total or None, unit="B", unit_scale=True, file=sys.stderr, leave=False)
