"""launch/convert.py as a user runs it: help, inspection of a run's checkpoint, one file of whole tensors, bad input."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from recipes.checkpoint.load import CheckpointReader
from recipes.plan.size import num_parameters, num_trunk_parameters
from tests.distributed import run_command
from tests.launching import ROOT, contents, launch, refused, tiny_recipe

CONVERT = ROOT / "launch" / "convert.py"
CONSOLIDATE = ["consolidate", "--from", "run", "--weights", "student", "--out"]
BAD: dict[str, tuple[list[str], str]] = {
    "no run": (["inspect", "nowhere"], r"error: nowhere: no such folder; name a run dir"),
    "another folder": (["inspect", "."], r"error: \.: neither a run dir nor a checkpoint folder; name a run dir such as runs/text_tiny"),
    "damaged": (["inspect", "damaged", "--verify"], r"rank_00000\.safetensors: \S+ is not as it was written"),
    "overwrite": ([*CONSOLIDATE, "mine"], r"--out mine: exists already and is never overwritten"),
    "no folder": ([*CONSOLIDATE, "nowhere/out"], r"--out nowhere/out: there is no folder nowhere; make it"),
    "inexpressible": (
        ["export", "--from", "run", "--out", "new"],
        r"frontend\.positions relative: transformers has absolute positions only",
    ),
    "no source": (["consolidate", "--from", "nowhere", "--weights", "student", "--out", "new"], r"--from nowhere: no such folder"),
}


def test_help_has_an_example_and_is_torch_free(tmp_path: Path) -> None:
    for words in (["--help"], ["inspect", "--help"], ["consolidate", "--help"], ["export", "--help"], ["import", "--help"]):
        program = f"import runpy, sys; sys.argv[1:] = {words!r}\ntry: runpy.run_path({str(CONVERT)!r}, run_name='__main__')\n"
        program += (
            "finally: print({'torch', 'deepspeed', 'megatron', 'numpy', 'transformers', 'tokenizers'} & set(sys.modules), file=sys.stderr)"
        )
        done = run_command([sys.executable, "-c", program], tmp_path, 30)
        assert (done.returncode, done.stderr) == (0, "set()\n")
        assert words != ["--help"] or "python launch/convert.py inspect runs/text_tiny" in done.stdout


def test_the_checkpoint_of_a_run_is_described_and_verified(modality: str, tiny_done: Path, tmp_path: Path) -> None:
    done = launch(CONVERT, ["inspect", tiny_done, "--verify", "--parameters"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nstep 2, update 2 (0 skipped), 16 samples, " in done.stdout
    assert f"\nrecipe {modality}_tiny ({modality}): num_layers 1, hidden_size 16, " in done.stdout
    origin = r"\nwritten 20\d\d-.* UTC with torch \S+, .*python 3\.\S+.*; data \w+\nwritten by 1 ranks = "
    assert re.search(origin, done.stdout), done.stdout
    assert re.search(r"\d ranges verified\n$", done.stdout) and "\n  head.layers.0.weight " in done.stdout


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_one_file_has_every_counted_parameter_of_the_run_whole(modality: str, weights: str, tiny_done: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole.safetensors"
    done = launch(CONVERT, ["consolidate", "--from", tiny_done, "--weights", weights, "--out", out, "--local_rank=0"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{weights} of .*/step_00000002: \d+ tensors, [\d,]+ bytes, written to {out}\nload it: .*\n", done.stdout)
    reader, recipe, total = CheckpointReader(tiny_done / "checkpoints" / "step_00000002"), tiny_recipe(modality), 0
    kind = {"student": "master", "teacher": "shadow"}[weights]
    with safe_open(out, framework="pt") as file:
        assert set(file.keys()) == set(reader.names(kind))
        assert json.loads(file.metadata()["recipe"])["name"] == recipe.name and file.metadata()["step"] == "2"
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            tensor, stored = file.get_tensor(name), reader.whole(kind, name)
            assert torch.equal(tensor, stored[: len(tensor)]) and not stored[len(tensor) :].any(), name
            total += tensor.numel()
    assert total == (num_parameters(recipe) if weights == "student" else num_trunk_parameters(recipe))


def test_the_student_of_a_run_is_exported_without_transformers(modality: str, tiny_done: Path, tmp_path: Path) -> None:
    """The tiny recipes of text and speech have settings that transformers cannot express: the error names them."""
    program = f"import runpy, sys; sys.argv[1:] = ['export', '--from', {str(tiny_done)!r}, '--out', 'out']\n"
    program += f"try: runpy.run_path({str(CONVERT)!r}, run_name='__main__')\n"
    program += "finally: print('transformers' in sys.modules)"
    done = run_command([sys.executable, "-c", program], tmp_path, 60)
    assert done.stdout.endswith("False\n")
    if done.returncode == 0:
        assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    else:
        names = {"text": "frontend.positions relative", "speech": "frontend.extractor_norm group"}
        assert (
            done.returncode == 2 and done.stderr.startswith(f"error: {names[modality]}: transformers has ") and not any(tmp_path.iterdir())
        )


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tiny_run: Path, tmp_path: Path) -> None:
    args, complaint = BAD[case]
    for name in ("run", "damaged"):
        shutil.copytree(tiny_run, tmp_path / name)
    (tmp_path / "mine").write_text("mine")
    damaged = tmp_path / "damaged" / "checkpoints" / "step_00000002" / "rank_00000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    before = contents(tmp_path)
    refused(launch(CONVERT, args, tmp_path), complaint)
    assert contents(tmp_path) == before
