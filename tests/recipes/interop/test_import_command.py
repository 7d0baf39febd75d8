"""`launch/convert.py import` as a user runs it: the run dir is probed, trained on by the printed command, and resumed; bad input is one
line with exit code 2 and leaves nothing."""

import argparse
import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.errors import ConfigError
from recipes.interop.import_command import add_command, check_free, run_import
from tests.launching import PRETRAIN, PROBE, ROOT, contents, launch, read_jsonl, refused, start
from tests.recipes.interop.sources import hf_copy, hf_tensors, paragraphs, sentencepiece_model, write_fairseq, write_weights

CONVERT = ROOT / "launch" / "convert.py"
FLAGS = {"--help", "--from", "--format", "--run-dir", "--recipe", "--tokenizer", "--local_rank"}
RECIPE = """
from dataclasses import replace
from recipes.text import text_tiny

def small():
    base = text_tiny()
    run = replace(base.run, global_batch_size=2, max_steps=2, save_steps=1, eval_samples=2)
    return replace(base, name="small", run=run, data=replace(base.data, sequence_length=16))
"""


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    return parser.parse_args(["import", *map(str, words)])


def test_the_flags_are_frozen_and_the_command_is_run_by_them(tmp_path: Path) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_command(commands)
    assert {flag for action in commands.choices["import"]._actions for flag in action.option_strings if flag.startswith("--")} == FLAGS
    assert parse("--from", "a/b", "--run-dir", tmp_path, "--local_rank", 0).run is run_import


@pytest.mark.slow
def test_a_hugging_face_model_is_imported_trained_on_by_the_printed_command_and_resumed(tmp_path: Path) -> None:
    folder, text = hf_copy("text", tmp_path / "hf"), tmp_path / "text.txt"
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    text.write_text("\n\n".join(paragraphs()))
    (tmp_path / "own.py").write_text(RECIPE)
    done = launch(CONVERT, ["import", "--from", "hf", "--run-dir", "my runs/a", "--recipe", "own.py:small"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *said, where, command = done.stdout.splitlines()
    assert said == [
        "not in the source, so as in a new run (run.seed 1): head.layers.0, head.layers.1",
        "52 of 56 tensors read; teacher: a copy of the student; moments 0, step 0",
    ]
    assert where == "imported into my runs/a"
    words = shlex.split(command)
    assert words[:3] == ["next:", "deepspeed", "launch/pretrain_text.py"] and words.count("YOUR_TEXT") == 1
    flags = [word.replace("YOUR_TEXT", str(text)) for word in words[3:]]
    for max_steps in (1, 2):
        trained = launch(PRETRAIN["text"], [*flags, "--set", f"run.max_steps={max_steps}"], tmp_path)
        assert trained.returncode == 0, trained.stderr + trained.stdout
    run_dir = tmp_path / "my runs" / "a"
    kinds = [row["event"] for row in read_jsonl(run_dir / "events.jsonl")]
    assert kinds[:2] == ["import", "start"] and "resume" in kinds
    config = json.loads((run_dir / "config.json").read_text())
    assert config["imported"]["format"] == "huggingface" and config["data_fingerprint"]
    assert (run_dir / "prepared" / "tokenizer.model").read_bytes() == sentencepiece_model()
    done = launch(CONVERT, ["inspect", run_dir, "--verify"], tmp_path)
    assert "\nstep 2, update 2 (0 skipped)" in done.stdout, done.stderr


@pytest.mark.slow
def test_an_imported_run_is_probed_before_any_training(tmp_path: Path) -> None:
    folder, text = hf_copy("text", tmp_path / "hf"), tmp_path / "text.txt"
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    text.write_text("\n\n".join(paragraphs() * 40))
    done = launch(CONVERT, ["import", "--from", folder, "--run-dir", "run", "--recipe", "text_tiny"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = launch(PROBE, ["--from", "run", "--data", text], tmp_path, timeout=200)
    assert done.returncode == 0 and "pre-trained" in done.stdout, done.stderr


def test_a_run_without_a_tokenizer_is_trained_on_with_one_that_is_given_then(tmp_path: Path) -> None:
    write_fairseq(tmp_path / "c.pt", "text")
    (tmp_path / "own.py").write_text(RECIPE)
    (tmp_path / "own.model").write_bytes(sentencepiece_model())
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs()))
    done = launch(CONVERT, ["import", "--from", "c.pt", "--format", "fairseq", "--run-dir", "run", "--recipe", "own.py:small"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "the checkpoint has no tokenizer, and --tokenizer names none; training needs --set data.tokenizer, as below\n"
    )
    command = done.stdout.splitlines()[-1].replace("YOUR_TEXT", "text.txt").replace("=FILE", "=own.model")
    words = [*shlex.split(command)[3:], "--set", "data.lowercase=false"]
    for changes in ({}, {"--run-dir": "new"}):
        lost = [changes.get(words[number - 1], word) for number, word in enumerate(words) if not word.startswith("data.tokenizer=")]
        lost = [word for word, following in zip(lost, [*lost[1:], "--"], strict=True) if word != "--set" or not following.startswith("--")]
        start = ["--set", "start.start_from=run"] if changes else []
        refused = launch(PRETRAIN["text"], [*lost, *start, "--dry-run"], tmp_path)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert (
            "was imported without the tokenizer by which its embeddings were learned; give it with --set data.tokenizer=" in refused.stderr
        )
    trained = launch(PRETRAIN["text"], words, tmp_path)
    assert trained.returncode == 0, trained.stderr + trained.stdout
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == sentencepiece_model()


def _lacks(tmp_path: Path) -> list[object]:
    tensors = hf_tensors("audio")
    del tensors["encoder.layers.2.feed_forward.output_dense.weight"], tensors["masked_spec_embed"]
    write_weights(hf_copy("audio", tmp_path / "hf"), tensors)
    return ["--from", "hf"]


def _wrong_shape(tmp_path: Path) -> list[object]:
    hf_copy("audio", tmp_path / "hf", intermediate_size=256)
    return ["--from", "hf"]


def _more_layers(tmp_path: Path) -> list[object]:
    hf_copy("audio", tmp_path / "hf", num_hidden_layers=3)
    return ["--from", "hf"]


def _not_finite(tmp_path: Path) -> list[object]:
    tensors = hf_tensors("audio")
    tensors["encoder.layer_norm.bias"][3] = float("nan")
    write_weights(hf_copy("audio", tmp_path / "hf"), tensors)
    return ["--from", "hf"]


def _teacher_is_not_finite(tmp_path: Path) -> list[object]:
    """The teacher is read while the checkpoint is written."""
    from tests.recipes.interop.sources import EMA, fairseq_state

    state = fairseq_state("text")
    state[EMA["text"]]["layers.3.fc1.bias"] = torch.full((128,), float("inf"))
    write_fairseq(tmp_path / "c.pt", "text", state)
    return ["--from", "c.pt", "--format", "fairseq"]


def _is_folder(tmp_path: Path) -> list[object]:
    hf_copy("audio", tmp_path / "hf")
    return ["--from", "hf", "--format", "fairseq"]


def _is_file(tmp_path: Path) -> list[object]:
    write_fairseq(tmp_path / "c.pt", "text")
    return ["--from", "c.pt"]


BAD: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "missing": (_lacks, r"--from hf: 1 tensors .* missing, such as trunk\.encoder\.layers\.2\.ffn\.fc2\.weight \(64, 128\)"),
    "wrong shape": (_wrong_shape, r"tensor encoder\.layers\.0\.\S*intermediate_dense\.\w+ is \(128.*\), its configuration needs \(256"),
    "more layers": (_more_layers, r"the model of its configuration has no tensor encoder\.layers\.3\."),
    "NaN": (_not_finite, r"1 of 64 values of tensor encoder\.layer_norm\.bias are NaN or infinite"),
    "teacher": (_teacher_is_not_finite, r"--from c\.pt: its teacher: 128 of 128 values of tensor layers\.3\.fc1\.bias are NaN"),
    "folder": (_is_folder, r"--from hf: is a folder; name a fairseq checkpoint, which is one \.pt file"),
    "file": (_is_file, r"--from c\.pt: is a file; .*; for a checkpoint of fairseq add --format fairseq"),
    "hub": (lambda folder: ["--from", "facebook/data2vec-text-base"], "no such folder, and the Hugging Face hub .*does not give it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    make, complaint = BAD[name]
    flags = make(tmp_path)
    before = contents(tmp_path)
    done = launch(CONVERT, ["import", *flags, "--run-dir", "runs/new"], tmp_path)
    refused(done, complaint)
    assert done.stdout == "" and contents(tmp_path) == before


def test_a_run_dir_that_is_not_empty_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    check_free(tmp_path / "new")
    (tmp_path / "file").touch()
    for path, found in ((tmp_path, "is not empty"), (tmp_path / "file", "is a file")):
        with pytest.raises(ConfigError, match=f"^--run-dir {path}: {found}; name a new folder$"):
            check_free(path)
    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        run_import(parse("--from", "nowhere", "--run-dir", tmp_path), print)
    hf_copy("audio", tmp_path / "hf")
    (tmp_path / "link").symlink_to("empty")
    done = launch(CONVERT, ["import", "--from", "hf", "--run-dir", "link"], tmp_path)
    assert done.returncode == 0 and (tmp_path / "empty" / "config.json").exists(), done.stderr


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^import runs on one process, 2 were started; use python launch/convert\.py$"):
        run_import(parse("--from", "x", "--run-dir", tmp_path / "run"), print)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    hf_copy("audio", tmp_path / "hf")
    before = contents(tmp_path)
    done = launch(CONVERT, ["import", "--from", "hf", "--run-dir", "runs/new"], tmp_path, file_limit=100_000)
    refused(done, r"runs/new: cannot be written \(File too large.*\), \d+ bytes free on that disk; free space")
    assert contents(tmp_path) == before


def _interrupt_when_half_written() -> None:
    import recipes.checkpoint.whole as whole

    def interrupted(*args: object) -> None:
        signal.raise_signal(signal.SIGINT)

    whole.write_manifest = interrupted  # type: ignore[assignment]


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    hf_copy("audio", tmp_path / "hf")
    before = contents(tmp_path)
    running = start(CONVERT, ["import", "--from", "hf", "--run-dir", "runs/new"], tmp_path, before=_interrupt_when_half_written)
    done = running.wait()
    assert done.returncode == 130 and "interrupted" in done.stderr, done.stderr
    assert contents(tmp_path) == before
