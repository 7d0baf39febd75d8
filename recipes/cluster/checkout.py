"""Which code this is. A digest of the checkout tells two nodes whether they run the same, what is edited and not committed included;
the commit is for people. Torch-free."""

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("model/**/*.py", "recipes/**/*.py", "launch/**/*.py", "ds_configs/*.json")


def checkout_digest(root: Path = ROOT) -> str:
    """sha256 of the names and contents of everything that decides what a run does; the same on every machine.

    Raises: OSError where a file cannot be read.
    """
    digest = hashlib.sha256()
    # hidden names are editors' lock files
    paths = {path.relative_to(root).as_posix(): path for part in PARTS for path in root.glob(part) if not path.name.startswith(".")}
    for name, path in sorted(paths.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str | None:
    """Of the checkout; None where it is no clone, or git is not installed or refuses."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
