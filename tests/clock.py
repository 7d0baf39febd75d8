"""A clock that moves only when somebody sleeps: how long a wait may take is then an exact number, on any machine."""


class Clock:
    """Stands for the module `time` in one module under test: monkeypatch.setattr(rendezvous, "time", Clock())."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def time(self) -> float:
        """Seconds since 1970, and by all other clocks of it."""
        return self.now

    monotonic = perf_counter = time

    def sleep(self, seconds: float) -> None:
        """At once, and it is so much later."""
        self.now += seconds
