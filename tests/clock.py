"""A clock for tests that moves only when the code sleeps. How long a wait may take is then an exact number, on any machine."""


class Clock:
    """Replaces the module `time` in one module under test: monkeypatch.setattr(rendezvous, "time", Clock())."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def time(self) -> float:
        """Return the current time of this clock in seconds. monotonic() and perf_counter() return the same."""
        return self.now

    monotonic = perf_counter = time

    def sleep(self, seconds: float) -> None:
        """Move the clock forward by `seconds`, and return at once."""
        self.now += seconds
