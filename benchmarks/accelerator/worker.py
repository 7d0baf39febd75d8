"""The process that runs checks: each is a function that yields rows, which go to the parent as they come."""

import importlib
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from accelerator.checks import Check
from accelerator.processes import MARK, kill_marked
from accelerator.result import CANNOT, WHOLE, Row, as_json


@dataclass(frozen=True)
class Context:
    """What a check is told."""

    device: str
    """cuda, or cpu with tiny sizes."""
    folder: Path
    """Of this check alone, empty."""

    @property
    def is_tiny(self) -> bool:
        """On the CPU all sizes are tiny."""
        return self.device == "cpu"


def work(checks: list[Check], device: str, out: Path, pipe: int) -> int:
    """Run them in turn; the first that raises is the last, since a device may be of no use after an error. Returns the exit code."""
    with os.fdopen(pipe, "w", buffering=1) as lines:
        send = partial(print, file=lines)
        for check in checks:
            try:
                run_one(check, Context(device, out / "scratch" / check.name.replace(" ", "_")), send)
            except Exception as error:
                if type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):  # torch's, a run's; a check without torch imports none
                    send(as_json({"row": asdict(Row(WHOLE, CANNOT, does_not_fit(error)))}))
                    send(as_json({"last": check.name}))
                else:
                    send(as_json({"problem": f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"}))
                raise
    return 0


def does_not_fit(error: Exception) -> str:
    """What torch says of memory, in short."""
    return f"does not fit: {str(error).split('.')[0]}"


def run_one(check: Check, context: Context, send: Callable[[str], None]) -> None:
    """Send its rows as they are found, then that it is done."""
    shutil.rmtree(context.folder, ignore_errors=True)  # of a run before, which would otherwise be continued
    context.folder.mkdir(parents=True)
    function = getattr(importlib.import_module(check.module), check.function)
    for row in function(context, *check.arguments):
        send(as_json({"row": asdict(row)}))
    send(as_json({"end": check.name}))


def end_with_parent(lifeline: int) -> None:
    """However the parent ends: nothing is ever written into this pipe, so that reading it ends when the last writer does."""

    def wait() -> None:
        os.read(lifeline, 1)
        kill_marked(os.environ[MARK])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
