"""What a command of launch/ ends with: one line and an exit code, said by the rank that speaks for all. Torch-free."""

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from recipes.cluster.environment import is_first_on_node, is_first_rank
from recipes.errors import EXIT_INTERRUPTED, ConfigError, LocalError, Stopped, TrainingBroken

INTERRUPTED = "interrupted; what was saved stays valid and the same command continues"
LAST_SECONDS = 1.0
"""How much later than the rank that speaks the others end: a launcher kills all as soon as it sees that one has ended badly."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and turn a user's error into one line on rank 0 and its exit code. Defects keep their traceback."""
    try:
        return command()
    except (ConfigError, TrainingBroken) as error:
        if is_first_rank() or (isinstance(error, LocalError) and is_first_on_node()):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(LAST_SECONDS)
        return error.exit_code
    except Stopped as stop:
        if is_first_rank():
            print(stop)
        return stop.exit_code
    except KeyboardInterrupt:
        exit_at_once()  # Python would wait for a thread that writes


def exit_at_once() -> NoReturn:
    """Say so on rank 0 and end this process without waiting for its threads."""
    if is_first_rank():
        sys.stderr.write(INTERRUPTED + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
