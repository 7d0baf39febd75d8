"""The run directory: who may write in it, what it was made for, and its two logs. Torch-free; checkpoints are in
recipes/checkpoint."""

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from recipes.checkpoint.layout import write_text_atomically
from recipes.config import Recipe, recipe_to_dict
from recipes.errors import ConfigError

FREE_TO_CHANGE = {f"run.{key}" for key in ("max_steps", "log_steps", "save_steps", "eval_steps", "eval_samples", "wandb")}


class RunDir:
    """A run directory that this process owns. Only rank 0 makes one."""

    def __init__(self, path: Path) -> None:
        """Take the directory, making it if need be.

        Raises: ConfigError if it is a file, cannot be written, or belongs to a launch that is still running.
        """
        self.path = path
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("a+")
        except FileExistsError:
            raise ConfigError(f"--run-dir {path} is a file; name a folder") from None
        except OSError as error:
            raise ConfigError(f"--run-dir {path}: {error.strerror}; name a folder that you may write to") from None
        self._own()

    def _own(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            raise ConfigError(f"--run-dir {self.path} is in use by {owner}; wait for it, stop it, or name another --run-dir") from None
        self._lock.truncate(0)
        self._lock.write(f"pid {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self._lock.flush()

    def save_config(self, content: dict[str, Any]) -> None:
        """Write config.json."""
        write_text_atomically(self.path / "config.json", json.dumps(content, indent=2) + "\n")

    def event(self, kind: str, **facts: Any) -> None:
        """Append one line to events.jsonl."""
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "event": kind, **facts}) + "\n")

    def open_metrics(self, step: int) -> IO[str]:
        """metrics.jsonl for appending, without the lines past `step` that a lost stretch left behind."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            write_text_atomically(path, "".join(kept))
        return path.open("a")

    def release(self) -> None:
        """Give the directory up. Where no run began in it, what this launch made is removed: the lock, and empty folders."""
        if not (self.path / "config.json").exists():
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # not empty: prepared data stay
                for folder in self._made:
                    folder.rmdir()
        self._lock.close()


def check_same_recipe(run_dir: Path, recipe: Recipe) -> None:
    """Raises: ConfigError naming the fields in which `recipe` differs from the one that the directory was made for."""
    config = run_dir / "config.json"
    if not config.exists():
        return
    try:
        before = _flat(json.loads(config.read_text())["recipe"])
    except (json.JSONDecodeError, KeyError):
        raise ConfigError(f"{config} is damaged, so what the run was made for is unknown; restore it or name another --run-dir") from None
    now = _flat(json.loads(json.dumps(recipe_to_dict(recipe))))
    if before["name"] != now["name"]:
        raise ConfigError(f"--run-dir {run_dir} holds a run of recipe {before['name']}, not {now['name']}; name another --run-dir")
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key) and key not in FREE_TO_CHANGE]
    if changed:
        shown = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed[:3])
        raise ConfigError(
            f"--run-dir {run_dir} was started with other settings ({len(changed)} differ: {shown}); name another --run-dir or undo them"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
