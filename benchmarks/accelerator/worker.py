"""The worker process, which runs checks. A check is a function that yields rows; each row is sent to the parent at once."""

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
    """Arguments of every check."""

    device: str
    """cuda, or cpu with tiny sizes."""
    folder: Path
    """An empty folder for this check alone."""

    @property
    def is_tiny(self) -> bool:
        """True on the CPU, where all sizes are tiny."""
        return self.device == "cpu"


def work(checks: list[Check], device: str, out: Path, pipe: int) -> int:
    """Run the checks in turn. After a check that raises, none is run, since the device may be unusable. Returns the exit code."""
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
    """Return the first sentence of torch's out-of-memory error."""
    return f"does not fit: {str(error).split('.')[0]}"


def run_one(check: Check, context: Context, send: Callable[[str], None]) -> None:
    """Run a check. Send each row when it is found, then the end message."""
    shutil.rmtree(context.folder, ignore_errors=True)  # a run in a folder of an earlier call would be resumed
    context.folder.mkdir(parents=True)
    function = getattr(importlib.import_module(check.module), check.function)
    for row in function(context, *check.arguments):
        send(as_json({"row": asdict(row)}))
    send(as_json({"end": check.name}))


def end_with_parent(lifeline: int) -> None:
    """End this process and its descendants when the parent ends, for any reason. No data are written into the pipe `lifeline`, so
    reading it returns when the parent, its only writer, has ended."""

    def wait() -> None:
        os.read(lifeline, 1)
        kill_marked(os.environ[MARK])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
