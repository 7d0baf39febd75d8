"""README's commands and the Python code of docs/ run as they stand, with a tiny model and two updates."""

import shlex
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.documented import folder_with_links, made_commands, python_blocks, readme_commands
from tests.launching import overrides
from tests.made_up import WRITE
from tests.recipes.finetune.reviews import write_reviews
from tests.recipes.interop.hf_copies import copy_golden

COMMANDS = readme_commands()
BIN = Path(sys.executable).parent
FINETUNE = ["--set", "finetune.epochs=0", "--set", "run.max_steps=2", "--set", "run.global_batch_size=8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `make quickstart`, whose two commands run here."""
    folder = folder_with_links(tmp_path_factory.mktemp("documented"))
    for name, modality in {"corpus": "text", "recordings": "speech", "images": "vision"}.items():
        (folder / name).symlink_to(WRITE[modality](tmp_path_factory.mktemp(name)))
    write_reviews(folder / "texts")
    copy_golden("text", folder / "hf")  # stands for a published model
    for words in (*made_commands("quickstart"), ["deepspeed", "launch/pretrain_vision.py"]):
        run(folder, words)
    return folder


def run(folder: Path, words: list[str], *more: str) -> str:
    """The output of a documented command, shortened."""
    script = next((word for word in words if word.startswith("launch/pretrain_")), "")
    short = overrides(script.removeprefix("launch/pretrain_").removesuffix(".py")) if script else []
    short += FINETUNE if "launch/finetune_text.py" in words else []
    done = run_command([BIN / words[0], *words[1:], *short, *more], folder, 240, {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_all_commands_are_found() -> None:
    assert COMMANDS[:2] == ["make quickstart", "make test"] and len(COMMANDS) >= 12
    assert [words[0] for words in made_commands("quickstart")] == ["deepspeed", "python"]
    assert made_commands("test")[0][1:3] == ["-m", "pytest"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if not one.startswith(("make", "sbatch"))])
def test_a_command_of_the_readme_runs(command: str, place: Path, tmp_path: Path) -> None:
    words = shlex.split(command)
    trains = words[0] == "deepspeed"
    if trains and "--recipe" in words:
        words += ["--dry-run"]  # a published size takes minutes to build
    printed = run(place, words, *(["--run-dir", str(tmp_path / "run")] if trains else []))
    if trains and not {"--dry-run", "--help-set"} & set(words):
        assert "done: 2 steps" in printed
    assert printed


@pytest.mark.slow
def test_the_same_command_again_continues(place: Path) -> None:
    printed = run(place, made_commands("quickstart")[0], "--set", "run.max_steps=4")
    assert "done: 4 steps" in printed


@pytest.mark.slow
@pytest.mark.parametrize("page", ["../README.md", "use-the-model.md", "checkpoint-format.md"])
def test_python_code_of_a_page_runs(page: str, place: Path) -> None:
    (place / "student.safetensors").unlink(missing_ok=True)
    run(place, shlex.split("python launch/convert.py consolidate --from runs/text_tiny --weights student --out student.safetensors"))
    blocks = python_blocks(page)
    assert blocks
    for code in blocks:
        (place / "block.py").write_text(code.replace("step_00000010", "step_00000002"))
        assert run(place, ["python", "block.py"])
