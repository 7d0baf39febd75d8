"""Which code a process runs: a hash of the source files, and the git commit. Nodes compare the hash, which also covers changes that are
not committed. The commit is for people. Torch-free."""

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE_PATTERNS = ("model/**/*.py", "recipes/**/*.py", "launch/**/*.py", "ds_configs/*.json")


def checkout_digest(root: Path = ROOT) -> str:
    """Return the sha256 of the names and contents of all source files and ds_configs of this repository. Equal code gives the same hash
    on every machine.

    Raises: OSError if a file cannot be read.
    """
    digest = hashlib.sha256()
    # hidden files are lock files of editors
    paths = {
        path.relative_to(root).as_posix(): path for pattern in CODE_PATTERNS for path in root.glob(pattern) if not path.name.startswith(".")
    }
    for name, path in sorted(paths.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str | None:
    """Return the hash of the checkout's git commit; None if it is not a clone, git is not installed, or git fails."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
