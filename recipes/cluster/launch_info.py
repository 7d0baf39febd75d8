"""What a command records about itself in config.json and in every manifest: release, versions of libraries, Python, git commit, command
line. Torch-free."""

import sys
import tomllib
from importlib import metadata
from typing import Any

from recipes.cluster.checkout import ROOT, commit

VERSIONED = ("torch", "deepspeed", "megatron-core", "datasets", "sentencepiece", "tokenizers", "soundfile", "torchaudio", "pillow", "numpy")


def release() -> str:
    """Return the version of this checkout. The metadata of an installed package may be of an earlier checkout."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def launch_info() -> dict[str, Any]:
    """Return versions, commit and command line, for config.json."""
    versions = {name: metadata.version(name) for name in VERSIONED}
    python = sys.version.split()[0]
    return {"release": release(), "versions": versions, "python": python, "git_commit": commit(), "command": sys.argv}
