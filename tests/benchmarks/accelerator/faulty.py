"""Checks that fail in different ways."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from accelerator.result import OK, Row
from accelerator.worker import Context


def good(context: Context, word: str = "fine") -> Iterator[Row]:
    yield Row("first", OK, word)
    yield Row("second", OK, f"process {os.getpid()}")


def raises(context: Context) -> Iterator[Row]:
    yield Row("before", OK, "found")
    raise RuntimeError("CUDA error: device-side assert triggered\nmore lines")


class OutOfMemoryError(RuntimeError):
    """An error with the name of torch's class."""


def does_not_fit(context: Context) -> Iterator[Row]:
    yield Row("before", OK, "found")
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB")


def dies(context: Context) -> Iterator[Row]:
    yield Row("before", OK, "found")
    print("the last line", file=sys.stderr, flush=True)
    os.abort()


def hangs(context: Context, *words: str) -> Iterator[Row]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield Row("child", OK, str(child.pid))
    time.sleep(100)


def leaves_ranks(context: Context) -> Iterator[Row]:
    """Start a child in its own session, like torchrun. It survives the end of its parent."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    yield Row("child", OK, str(child.pid))
    time.sleep(100)


def writes_a_file(context: Context) -> Iterator[Row]:
    found = sorted(path.name for path in context.folder.iterdir())
    (context.folder / "left").write_text("")
    yield Row("found", OK, str(found))


def nothing(context: Context) -> Iterator[Row]:
    yield from ()
