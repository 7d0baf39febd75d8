"""The run directory: its lock, its config.json and its two logs. Torch-free; checkpoints are in recipes/checkpoint."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.run_dir.lock import RunLock
from recipes.system.durable import sync, write_bytes_atomically
from recipes.system.json_lines import JsonLines, read_rows

FREE_TO_CHANGE = {
    *(f"run.{key}" for key in ("max_steps", "log_steps", "save_steps", "eval_steps", "eval_samples", "wandb", "max_minutes")),
    *("run.hang_seconds", "run.accept_changes", "run.products", "run.profile_steps", "run.device_tflops"),
    "eval.probe_steps",  # a probe changes nothing that is learned
    "data.num_workers",  # the number of readers does not change what is read
    "data.path",  # check_same_data compares the content, so the path may change
    "data.tokenizer",  # the run's own copy is compared with it by content, so the path may change
    "data.max_bad_fraction",  # it decides when a run ends, not what it learns
}
FREE_SECTIONS = ("checkpoint.", "start.")  # resume.py has a check of its own for start
LOGS = ("metrics.jsonl", "events.jsonl")
Changes = dict[str, list[Any]]
"""Dotted name of a setting -> its value before and now."""


class OpenedMetrics(NamedTuple):
    """The log metrics.jsonl, open for appending, and how many updates, and seconds of work, were lost after the last checkpoint."""

    lines: JsonLines
    lost_steps: int
    lost_seconds: float


class RunDir:
    """A run directory that this process owns. Only rank 0 creates this object."""

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        """Lock the directory, and create it if it does not exist. `say` prints warnings and progress for the user.

        Raises: ConfigError if it is a file, cannot be written, or belongs to a launch that is still running.
        """
        self.path, self._say = path, say
        self.last_seen = _last_seen(path)
        """When the previous launch was last alive (seconds since 1970); None if there was no previous launch."""
        self.accepted: Changes = {}
        """Changed settings that the user has accepted for this launch."""
        self._metrics: JsonLines | None = None
        self._made: list[Path] = []
        self._lock = RunLock(path / ".lock", say=say)
        try:
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            for folder in self._made:
                sync(folder.parent)  # a power cut must not lose the folder and all that is synced in it
            self.taken_from = self._lock.acquire()
            """The launch that owned the directory when it died; None if the previous launch released it."""
            self._events = self._log("events.jsonl")
        except FileExistsError:
            raise ConfigError(f"--run-dir {path} is a file; name a folder") from None
        except OSError as error:
            self._remove_made()
            raise ConfigError(f"--run-dir {path}: {error.strerror}; name a folder that you may write to") from None

    @property
    def token(self) -> str:
        """The content of the lock file. It is unique to this launch, so that another node can check whether it sees the same folder."""
        return self._lock.text

    @property
    def is_lost(self) -> bool:
        """True if another launch was found to own the directory, or it is gone. Nothing is written in it from then on."""
        return self._lock.is_lost

    def check(self) -> None:
        """Check that this launch still owns the directory.

        Raises: ConfigError if another launch owns it, or it is gone; OSError if the file system does not answer.
        """
        self._lock.check()

    def save_config(self, content: dict[str, Any]) -> None:
        """Write config.json. Raises: ConfigError if the write fails."""
        self._replace("config.json", json.dumps(content, indent=2) + "\n")

    def keep(self, name: str, content: bytes) -> None:
        """Write `content` into the file `name` of the run directory, atomically. Raises: ConfigError if the write fails."""
        self._replace(name, content)

    def warn(self, text: str) -> None:
        """Print a warning line on the terminal."""
        self._say(f"warning: {text}")

    def event(self, kind: str, **facts: Any) -> None:
        """Append one line to events.jsonl: the time, the `kind` of event and the `facts`. If the disk fails, the line is written later."""
        self._events.append({"time": time.time(), "event": kind, **facts})

    def open_metrics(self, step: int) -> OpenedMetrics:
        """Open metrics.jsonl. Remove damaged lines, and rows of steps after `step`: the run continues from there, so their work is lost.

        Raises: ConfigError if the write fails.
        """
        lines = self._metrics = self._log("metrics.jsonl")
        found, num_damaged = read_rows(lines.path)
        rows = [row for row in found if isinstance(row.get("step"), int)]
        num_damaged += len(found) - len(rows)
        kept, cut = [row for row in rows if row["step"] <= step], [row for row in rows if row["step"] > step]
        if cut or num_damaged:
            self._replace(lines.path.name, "".join(json.dumps(row) + "\n" for row in kept))
        if num_damaged:
            self._say(f"warning: {num_damaged} damaged lines of {lines.path} were taken out")
        lost_seconds, last = 0.0, step
        for row in cut:  # step_seconds is the mean since the previous row
            lost_seconds += row.get("step_seconds", 0.0) * (row["step"] - last)
            last = row["step"]
        return OpenedMetrics(lines, last - step, lost_seconds)

    def release(self) -> None:
        """Close the logs and remove the lock. If no run began in the directory, also remove the folders that this launch created, if they
        are empty."""
        self._events.close()
        if self._metrics:
            self._metrics.close()
        self._lock.release()
        if not (self.path / "config.json").exists():
            self._remove_made()

    def _log(self, name: str) -> JsonLines:
        return JsonLines(self.path / name, self._report_log_error, is_ours=lambda: not self._lock.is_lost)

    def _report_log_error(self, text: str) -> None:
        """Print `text`, an error of writing a log. Does nothing if this launch has lost the directory: the run then ends with an error."""
        with suppress(ConfigError):
            with suppress(OSError):
                self._lock.check()
            self._say(text)

    def _remove_made(self) -> None:
        for folder in self._made:
            with suppress(OSError):  # the folder is not empty: prepared data stay
                folder.rmdir()

    def _replace(self, name: str, content: str | bytes) -> None:
        try:
            write_bytes_atomically(self.path / name, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            free = shutil.disk_usage(self.path).free
            raise ConfigError(
                f"{self.path / name} cannot be written ({error.strerror}), {free} bytes free on that disk; "
                "fix that and give the same command again"
            ) from None


@dataclass(frozen=True)
class StoredConfig:
    """The settings of the run in a run directory. A launch that continues the run must agree with them."""

    recipe: dict[str, Any]
    """The recipe as JSON, in the format of the release that wrote it; see recipes/settings.py."""
    content: dict[str, Any]
    """The whole of config.json."""
    writer: str
    """The path of the file and the release that wrote it, for the beginning of a message."""


def read_config(run_dir: Path) -> StoredConfig | None:
    """Read the run's config.json; None if there is no such file. Raises: ConfigError if the file is damaged or cannot be read."""
    path = run_dir / "config.json"
    try:
        config = json.loads(path.read_text())
        if isinstance(config["recipe"]["name"], str):
            release = config.get("release", f"at commit {str(config.get('git_commit'))[:12]}")
            return StoredConfig(config["recipe"], config, f"{path} (written by release {release})")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: {error.strerror}; name a folder that you may read and write") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ConfigError(
        f"{path} is damaged, so what the run was made for is unknown; restore it, remove it (a checkpoint says the same), "
        "or name another --run-dir"
    )


def _last_seen(run_dir: Path) -> float | None:
    times = []
    for name in (*LOGS, ".lock"):
        with suppress(OSError):
            times.append((run_dir / name).stat().st_mtime)
    return max(times, default=None)
