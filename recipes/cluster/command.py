"""What a command of launch/ begins and ends with: a terminal that cannot end it, and one line and an exit code, said by the rank that
speaks for all. Torch-free."""

import codecs
import errno
import json
import locale
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from recipes.cluster.environment import is_first_on_node, is_first_rank, is_verbose
from recipes.cluster.memory import naming_out_of_memory
from recipes.errors import EXIT_DEFECT, EXIT_INTERRUPTED, ConfigError, LocalError, OutOfMemory, Stopped, TrainingBroken
from recipes.system.terminal import protect_terminal

INTERRUPTED = "interrupted; what was saved stays valid and the same command continues"
SAVED = "stopped on request, everything is saved, no failure (exit code 75): the same command continues"
SHOWN_CHARACTERS = 60
"""Of a name that is too long."""
LAST_SECONDS = 1.0
"""How much later than the rank that speaks the others end: a launcher kills all as soon as it sees that one has ended badly."""
LEAVE_SECONDS = 5.0
"""How long a process whose command has ended may wait for its threads and child processes."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command, reading its flags included; a user's error is one line on rank 0 and its exit code. Defects keep their traceback.
    However it ends, the process is gone LEAVE_SECONDS after Python's own end has begun."""
    protect_terminal(tells=is_first_rank())
    code = EXIT_DEFECT
    try:
        code = _code_of(command)
        return code
    finally:
        threading.Thread(target=_end_late, args=(code,), daemon=True, name="end").start()


def _end_late(code: int) -> None:
    """Python's own end joins threads and child processes without a limit; daemon threads go on meanwhile."""
    threading.main_thread().join()
    time.sleep(LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code_of(command: Callable[[], int]) -> int:
    try:
        check_encoding()
        with naming_out_of_memory():
            code = command()
    except (ConfigError, TrainingBroken) as error:
        _tell(error)
        return error.exit_code
    except Stopped as stop:
        if is_first_rank():
            print(stop)
        tell_torchrun(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        exit_at_once()  # Python would wait for a thread that writes
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _tell(ConfigError(f"{str(error.filename)[:SHOWN_CHARACTERS]}...: {error.strerror}; choose a shorter one"))
            return ConfigError.exit_code
        tell_torchrun(traceback.format_exc())
        raise
    if code == Stopped.exit_code:
        tell_torchrun(SAVED)
    return code


def _tell(error: ConfigError | TrainingBroken) -> None:
    """The line, from the rank that speaks; the others end later than it."""
    line, speaks = f"error: {error}", is_first_rank() or (isinstance(error, LocalError) and is_first_on_node())
    tell_torchrun(line)
    if not speaks:
        time.sleep(LAST_SECONDS)
    if is_verbose() and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    if speaks or isinstance(error, OutOfMemory):
        print(line, file=sys.stderr, flush=True)


def tell_torchrun(text: str) -> None:
    """Leave `text` where torchrun looks for what it prints of a rank that has failed, below a page of its own: else it says that nothing
    is known. Source: torch 2.13, distributed/elastic/multiprocessing/errors."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        place = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": {"message": text, "extraInfo": place}}, file)


def check_encoding() -> None:
    """Raises: ConfigError where this Python reads and writes ASCII alone, as torch's own files are not."""
    if codecs.lookup(locale.getpreferredencoding(do_setlocale=False)).name == "ascii":
        raise ConfigError("PYTHONUTF8=0 in a locale without UTF-8: files and names are ASCII alone; unset it, or set PYTHONUTF8=1")


def exit_at_once() -> NoReturn:
    """Say so on rank 0 and end this process without waiting for its threads."""
    if is_first_rank():
        sys.stderr.write(INTERRUPTED + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
