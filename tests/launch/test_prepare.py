"""launch/prepare.py as a user runs it: a folder for the launcher, the printed next command, and bad input in one line."""

import re
import sys
from pathlib import Path

import pytest

from recipes.train.prepare import build_parser
from tests.distributed import run_command
from tests.launching import PREPARE, PRETRAIN, contents, launch, overrides

FLAGS = {"--help", "--recipe", "--data", "--out", "--set", "--processes", "--local_rank"}
BAD: dict[str, tuple[list[str], str]] = {
    "recipe": (["--recipe", "text_huge"], r"--recipe text_huge: unknown; there are text_tiny"),
    "key": (["--set", "data.sequence_lengths=4"], r"did you mean data\.sequence_length"),
    "contradiction": (["--set", "data.sequence_length=5000"], r"max_positions 512 is less than data\.sequence_length 5000"),
    "data": (["--data", "nowhere.txt"], r"--data nowhere\.txt: no such file or folder"),
    "vocabulary": (["--set", "frontend.vocab_size=60000", "--set", "data.tokenizer_sample_megabytes=1"], r"vocab_size 60000 is too large"),
    "occupied": (["--out", "mine"], r"mine: exists and is no prepared folder"),
}


def test_the_flags_are_frozen() -> None:
    assert {flag for action in build_parser("")._actions for flag in action.option_strings if flag.startswith("--")} == FLAGS


def test_help_has_an_example_and_is_torch_free(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(PREPARE)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'datasets'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "python launch/prepare.py text --recipe text_base --data corpus/" in done.stdout


def test_the_printed_command_trains_on_the_prepared_folder(modality: str, tiny_data: Path, tiny_done: Path, tmp_path: Path) -> None:
    args = [modality, "--data", tiny_data, "--out", "made", "--local_rank=0", *overrides(modality)]
    done = launch(PREPARE, args, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    made, found = contents(tmp_path / "made"), contents(tiny_done / "prepared")
    assert {name: made[name] for name in made if name.endswith((".bin", ".npy"))} == {
        name: found[name] for name in found if name.endswith((".bin", ".npy"))
    }
    said = re.search(rf"next: deepspeed launch/pretrain_{modality}\.py (.*)\n$", done.stdout)
    assert said, done.stdout
    trained = launch(PRETRAIN[modality], said[1].split(), tmp_path)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert not (tmp_path / "runs" / f"{modality}_tiny" / "prepared").exists(), "nothing is prepared twice"


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path, tiny_text: Path) -> None:
    args, complaint = BAD[case]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    done = launch(PREPARE, ["text", "--data", tiny_text, "--out", "made", *args], tmp_path)
    assert done.returncode == 2 and re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes"]
