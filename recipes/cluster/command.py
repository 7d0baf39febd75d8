"""What a command of launch/ begins and ends with: a terminal that cannot end it, and one line and an exit code, said by the rank that
speaks for all. Torch-free."""

import codecs
import errno
import locale
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from recipes.cluster.environment import is_first_on_node, is_first_rank
from recipes.errors import EXIT_INTERRUPTED, ConfigError, LocalError, Stopped, TrainingBroken
from recipes.system.terminal import protect_terminal

INTERRUPTED = "interrupted; what was saved stays valid and the same command continues"
SHOWN_CHARACTERS = 60
"""Of a name that is too long."""
LAST_SECONDS = 1.0
"""How much later than the rank that speaks the others end: a launcher kills all as soon as it sees that one has ended badly."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command, reading its flags included; a user's error is one line on rank 0 and its exit code. Defects keep their traceback."""
    protect_terminal(tells=is_first_rank())
    try:
        check_encoding()
        return command()
    except (ConfigError, TrainingBroken) as error:
        if is_first_rank() or (isinstance(error, LocalError) and is_first_on_node()):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(LAST_SECONDS)
        return error.exit_code
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {str(error.filename)[:SHOWN_CHARACTERS]}...: {error.strerror}; choose a shorter one", file=sys.stderr)
        return ConfigError.exit_code
    except Stopped as stop:
        if is_first_rank():
            print(stop)
        return stop.exit_code
    except KeyboardInterrupt:
        exit_at_once()  # Python would wait for a thread that writes


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
