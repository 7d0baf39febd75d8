"""Stopping on request: signals set a flag, the loop reads it at a step boundary. Saving and leaving is the loop's."""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Listens while it is entered. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.agreed = False
        """Set by the loop when all ranks know that one of them was asked to stop."""
        self._interrupts = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
