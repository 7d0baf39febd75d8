"""The errors a command turns into an exit code (product: 2, 3 and 75). Anything else is a defect and keeps its traceback."""

EXIT_DEFECT = 1
"""Of an error that nobody foresaw, as Python reports it."""
EXIT_INTERRUPTED = 130
"""Of what Ctrl-C ends at once: 128 + SIGINT, as shells report it."""


def first_line(error: Exception) -> str:
    """The error's message as far as it fits into one line; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class ConfigError(Exception):
    """The user can mend it: one line of fact, numbers and remedy. Exit code 2."""

    exit_code = 2


class LocalError(ConfigError):
    """Met by one process before the ranks have found each other: the first process of each node says it, for rank 0 may know nothing."""


class OutOfMemory(ConfigError):
    """A device or the machine has no memory left. The rank that met it says it, whichever that is: the others know nothing of it."""


class MissingSplit(ConfigError):
    """The data have no split of the name that was asked for."""


class OtherData(ConfigError):
    """A prepared folder was made from other data, or with other settings, than those that are asked for: `fact; remedy`."""

    @property
    def fact(self) -> str:
        """Without the remedy, for those who know a better one."""
        return str(self).rpartition("; ")[0]


class UnusableData(ConfigError):
    """Training cannot go on with these data: met by all ranks at once, before an update is begun, so what was learned can be saved."""


class DamagedCheckpoint(ConfigError):
    """A checkpoint is not as it was written: never loaded; a run falls back to the one before."""


class Stopped(BaseException):
    """Asked to stop where nothing is saved yet, such as in a preparation. No Exception, so that no library swallows it. Exit code 75."""

    exit_code = 75


class TrainingBroken(Exception):
    """Training collapsed or diverged: the line says at which step and what to look at. Exit code 3."""

    exit_code = 3
