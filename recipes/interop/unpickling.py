"""What torch raises for a pickled file that it does not load, and a line for the user about it. Loads nothing."""

import pickle
import re
import zipfile

from recipes.errors import first_line

UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, OSError, EOFError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
)
"""What torch raises for a file that is damaged, not its own, or names what it does not load."""
BLOCKED = re.compile(r"unsupported GLOBAL (\S+) whose module \S+ is blocked")
NOT_ALLOWED = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed")
OTHER = re.compile(r"WeightsUnpickler error:\s*(.+?)(\. |$)", re.MULTILINE)


def complaint(error: Exception) -> str:
    """Return what is wrong with the file, and the remedy. torch's own advice, to load the file unsafely, is left out."""
    text = str(error)
    if found := BLOCKED.search(text):
        return f"names the function {found[1]}, which is never loaded; do not use this file"
    if found := NOT_ALLOWED.search(text):
        return f"holds an object of the class {found[1]}, which is not loaded; save its tensors alone"
    own = OTHER.search(text)
    return f"is damaged or no file of torch ({own[1].strip() if own else first_line(error)}); copy it again"
