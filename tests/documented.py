"""The commands and the Python code that README.md and docs/ show, taken out of the Markdown so that tests can run them."""

import re
import shlex
from pathlib import Path

from tests.launching import ROOT

PROGRAMS = ("make", "deepspeed", "python", "torchrun", "sbatch", "launch/")
BLOCK = re.compile(r"^    (?! )(.*)$", re.M)
ROW = re.compile(r"^\| [^|]* \| ([^|]*) \|", re.M)


def readme_commands() -> list[str]:
    """Return the commands of README.md, in order. A flag of its table is added to `deepspeed launch/pretrain_text.py`; a script without a
    command is run by deepspeed."""
    text = (ROOT / "README.md").read_text()
    found = [line.partition(" #")[0].strip() for line in BLOCK.findall(text) if line.startswith("make ")]
    for cell in ROW.findall(text):
        for code in re.findall(r"`([^`]+)`", cell):
            if code.startswith("--"):
                found.append(f"deepspeed launch/pretrain_text.py {code}")
            elif code.startswith(PROGRAMS):
                found.append(f"deepspeed {code}" if code.startswith("launch/") else code)
    return found


def made_commands(target: str) -> list[list[str]]:
    """Return the commands of a target of the Makefile, each as a list of words, without the path of .venv and without $(ON_CPU)."""
    rule = (ROOT / "Makefile").read_text().partition(f"\n{target}: ")[2].partition("\n\n")[0]
    words = [shlex.split(line.replace("$(ON_CPU)", "").replace(".venv/bin/", "")) for line in rule.splitlines()[1:]]
    return [line for line in words if line]


def python_blocks(page: str) -> list[str]:
    """Return the indented blocks of a page of docs/ that are Python code with an import."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", (ROOT / "docs" / page).read_text(), re.M)
    code = ["\n".join(line.removeprefix("    ") for line in block.splitlines()).strip() for block in blocks]
    return [block + "\n" for block in code if re.search(r"^(from|import) ", block, re.M)]


def folder_with_links(folder: Path) -> Path:
    """Link launch/, ds_configs/, recipes/ and model/ into `folder` and return it. Commands run in it as in a checkout, and write beside
    the links."""
    for name in ("launch", "ds_configs", "recipes", "model"):
        (folder / name).symlink_to(ROOT / name)
    return folder
