"""The errors that a command turns into an exit code: 2, 3 or 75. Any other exception is a defect and keeps its traceback."""

EXIT_DEFECT = 1
"""Exit code of an unexpected exception, as Python sets it."""
EXIT_INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ends at once: 128 + SIGINT, as in shells."""


def first_line(error: Exception) -> str:
    """Return the first line of the error's message, or its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class ConfigError(Exception):
    """An error that the user can fix. The message is one line: fact, numbers, remedy. Exit code 2."""

    exit_code = 2

    @property
    def without_remedy(self) -> str:
        """The message without its remedy, so that the caller can add its own remedy."""
        fact, semicolon, _ = str(self).rpartition("; ")
        return fact if semicolon else str(self)


class LocalError(ConfigError):
    """An error of this process alone, before the ranks have joined, so rank 0 may get no notice. The first process of each node prints
    it."""


class OutOfMemory(ConfigError):
    """A device or the machine has no memory left. The rank on which it happens prints it, because the other ranks get no notice."""


class MissingSplit(ConfigError):
    """The data have no split (part, such as train or valid) of the requested name."""


class DataMismatch(ConfigError):
    """A folder of prepared data was made from other data, or with other settings, than those of this run. The message is `fact; remedy`."""


class UnusableData(ConfigError):
    """Training cannot continue with these data. All ranks raise it together, before an update begins, so the state can still be saved."""


class DamagedCheckpoint(ConfigError):
    """A file of a checkpoint is missing or was changed after it was written. The checkpoint is never loaded; a run falls back to the one
    before it."""


class Stopped(BaseException):
    """A stop was requested while there is nothing to save, for example while data are prepared. It is a BaseException, so that no
    library swallows it. Exit code 75."""

    exit_code = 75


class TrainingBroken(Exception):
    """Training collapsed or diverged. The message has the step and what to look at. Exit code 3."""

    exit_code = 3
