"""Copies a run's metrics to wandb, one wandb run per run dir. metrics.jsonl is the record. No failure of wandb stops training, and only
its end may wait, a bounded time."""

import json
import os
import secrets
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from recipes.run_dir.folder import Folder
from recipes.system.durable import write_text_atomically

PATIENCE_SECONDS = 20.0
ID_FILE = "wandb.json"


def open_mirror(mode: str, run_dir: Path, config: Mapping[str, Any]) -> "WandbMirror | None":
    """Start or continue the wandb run of `run_dir`. None if run.wandb (`mode`) is off, or if WANDB_MODE is `disabled`.

    `config`: the hyperparameters that wandb shows. Variables of the environment (WANDB_PROJECT, WANDB_NAME, ...) take precedence.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]  # wandb would treat an empty variable as set
    if mode == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return None
    name = run_dir.resolve().name
    ours = {"PROJECT": "data2vec", "NAME": name, "RUN_GROUP": name, "DIR": str(run_dir), "MODE": mode, "RESUME": "allow"}
    run = {key.removeprefix("RUN_").lower(): value for key, value in ours.items() if f"WANDB_{key}" not in os.environ}
    return WandbMirror({**run, "id": _id_of(run_dir), "config": dict(config), "allow_val_change": True})


class WandbMirror:
    """Sends metrics to wandb on a daemon thread. The first error of wandb is printed and ends the thread."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """`arguments`: those of wandb.init."""
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None is the end
        self._arguments = arguments
        self._given_up = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self._thread.start()

    def log(self, metrics: dict[str, Any]) -> None:
        """Queue the metrics of one step."""
        self._queue.put(dict(metrics))

    def finish(self) -> None:
        """Ask the thread to finish, and wait at most PATIENCE_SECONDS."""
        self._queue.put(None)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._given_up = True
            folder = os.environ.get("WANDB_DIR") or self._arguments["dir"]
            print(f"wandb: not done after {PATIENCE_SECONDS:g} s; `wandb sync` sends what is in {folder}", file=sys.stderr)

    def _work(self) -> None:
        import wandb  # takes half a second, so only runs that use wandb import it

        try:
            run = wandb.init(**self._arguments, settings=wandb.Settings(silent=True, init_timeout=PATIENCE_SECONDS))
            while (metrics := self._queue.get()) is not None:
                run.log({k: v for k, v in metrics.items() if v is not None}, step=metrics["step"])
            run.finish()
        except (wandb.Error, OSError, ValueError) as error:  # ValueError: a WANDB_ variable with an invalid value
            line = " ".join(str(error).split())
            print(f"wandb: {line}; training goes on, metrics.jsonl has everything", file=sys.stderr)
        except Exception:
            if self._given_up:  # the interpreter exits, and wandb's service ends with it
                return
            raise


def _id_of(run_dir: Path) -> str:
    """Return the id of the wandb run, and store it in the run dir: WANDB_RUN_ID, or the stored id, or a new one. The stored id is not
    used in a copy of a run dir, which is a run of its own."""
    file, here, kept = run_dir / ID_FILE, Folder.at(run_dir), None
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(file.read_text())
        kept = None if Folder(*content["folder"]).is_copied_to(here) else content["id"]
    own = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)
    with suppress(OSError):  # a full disk: then the next launch starts another wandb run
        write_text_atomically(file, json.dumps({"id": own, "folder": here}) + "\n")
    return own
