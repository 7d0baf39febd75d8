"""How a command of launch/ starts and ends. A terminal that is lost does not end it. An error is printed as one line by one rank, and every
rank returns an exit code. Torch-free."""

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
"""How much of a file name that is too long an error shows."""
EXIT_DELAY_SECONDS = 1.0
"""After an error, the ranks that do not print it exit this much later than the rank that does. A launcher kills all ranks when one has
failed."""
LEAVE_SECONDS = 5.0
"""How long a process may wait for its threads and child processes after its command has ended."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command, including the parsing of its flags, and return its exit code. An error that the user can fix is printed as one line
    on rank 0; any other exception is raised. The process then ends at most LEAVE_SECONDS after Python has begun to shut down."""
    protect_terminal(warns=is_first_rank())
    code = EXIT_DEFECT
    try:
        code = _run(command)
        return code
    finally:
        threading.Thread(target=_exit_late, args=(code,), daemon=True, name="end").start()


def _exit_late(code: int) -> None:
    """End the process with exit code `code`, 5 s (LEAVE_SECONDS) after the main thread has ended. Without this, Python's shutdown would
    wait for threads and child processes without a limit. Runs in a daemon thread, which continues during the shutdown."""
    threading.main_thread().join()
    time.sleep(LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(command: Callable[[], int]) -> int:
    try:
        check_encoding()
        with naming_out_of_memory():
            code = command()
    except (ConfigError, TrainingBroken) as error:
        _print_error(error)
        return error.exit_code
    except Stopped as stop:
        if is_first_rank():
            print(stop)
        write_torchrun_error(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        exit_at_once()  # Python would wait for a thread that writes a checkpoint
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _print_error(ConfigError(f"{str(error.filename)[:SHOWN_CHARACTERS]}...: {error.strerror}; choose a shorter one"))
            return ConfigError.exit_code
        write_torchrun_error(traceback.format_exc())
        raise
    if code == Stopped.exit_code:
        write_torchrun_error(SAVED)
    return code


def _print_error(error: ConfigError | TrainingBroken) -> None:
    """Print the error's line on rank 0; on the first rank of each node for a LocalError, on every rank for OutOfMemory. Ranks that are
    not to print wait first, so that a printing rank exits before them."""
    line, prints = f"error: {error}", is_first_rank() or (isinstance(error, LocalError) and is_first_on_node())
    write_torchrun_error(line)
    if not prints:
        time.sleep(EXIT_DELAY_SECONDS)
    if is_verbose() and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    if prints or isinstance(error, OutOfMemory):
        print(line, file=sys.stderr, flush=True)


def write_torchrun_error(text: str) -> None:
    """Write `text` to torchrun's error file, if torchrun has set one. torchrun prints it below its own report of a failed rank; without
    it torchrun prints that the cause is unknown. Source: torch 2.13, distributed/elastic/multiprocessing/errors."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": {"message": text, "extraInfo": details}}, file)


def check_encoding() -> None:
    """Check that this Python reads and writes more than ASCII, since torch's own files are not ASCII. Raises: ConfigError."""
    if codecs.lookup(locale.getpreferredencoding(do_setlocale=False)).name == "ascii":
        raise ConfigError("PYTHONUTF8=0 in a locale without UTF-8: files and names are ASCII alone; unset it, or set PYTHONUTF8=1")


def exit_at_once() -> NoReturn:
    """End this process after Ctrl-C, with a line on rank 0, without waiting for its threads."""
    if is_first_rank():
        sys.stderr.write(INTERRUPTED + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
