"""Progress of a pass over the data: a bar on a terminal, else a line every 20 s through `log`. Prints only the bar itself."""

import sys
import time
from collections.abc import Callable

from recipes.system.columns import terminal_columns

LOG_EVERY_SECONDS = 20.0


class ItemProgress:
    """Counts how many of `total` units one pass over the data has done, and shows it as a bar or in the log. `total` 0 means that the
    number is not known yet."""

    def __init__(self, label: str, total: int, *, unit: str, log: Callable[[str], None], show_bar: bool = True) -> None:
        self._label, self._total, self._unit, self._log = label, total, unit, log
        self._start = self._last_log = time.monotonic()
        self._bar = _build_bar(label, total, unit) if show_bar and terminal_columns() else None
        self.num_done = 0

    def add(self, num: int) -> None:
        """Count `num` more units. Update the bar, or log a line if the last line is older than 20 s (LOG_EVERY_SECONDS)."""
        self.num_done += num
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(num)
        elif now - self._last_log > LOG_EVERY_SECONDS:
            self._last_log = now
            self._log(f"{self._label}: {self}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start. Never 0."""
        return max(time.monotonic() - self._start, 1e-9)

    def __str__(self) -> str:
        of = f" of {self._total:,}" if self._total else ""
        return f"{self.num_done:,}{of} {self._unit} in {self.seconds:.1f} s, {self.num_done / self.seconds:.1f} a second"


class ByteProgress(ItemProgress):
    """ItemProgress that counts bytes and shows megabytes."""

    def __init__(self, label: str, total: int, *, show_bar: bool, log: Callable[[str], None]) -> None:
        super().__init__(label, total, unit="B", log=log, show_bar=show_bar)

    @property
    def num_bytes(self) -> int:
        """Number of bytes so far."""
        return self.num_done

    def __str__(self) -> str:
        of = f" of {self._total / 1e6:.1f}" if self._total else ""
        return f"{self.num_bytes / 1e6:.1f}{of} MB in {self.seconds:.1f} s, {self.num_bytes / 1e6 / self.seconds:.1f} MB/s"


def _build_bar(label: str, total: int, unit: str):  # type: ignore[no-untyped-def]  # tqdm ships no types
    from tqdm import tqdm

    return tqdm(desc=label, total=total or None, unit=unit, unit_scale=True, file=sys.stderr, leave=False)
