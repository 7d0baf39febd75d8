"""What --from names: runs, checkpoints, their best ones and random networks; wrong names are one line with exit code 2."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.catalog import RECIPES
from recipes.checkpoint.layout import newest, read_manifest, write_manifest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.finetune.sources import RANDOM, SourceFlags, find_source
from recipes.start_config import StartConfig
from tests.launching import launch, refused, tiny_recipe
from tests.recipes.finetune.made_up_reviews import FINETUNE, finetune, write_reviews
from tests.recipes.interop.sources import hf_copy, sentencepiece_model


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "data")


def small_network() -> Recipe:
    return tiny_recipe(frontend__vocab_size=150)


def found(source: object, run_dir: Path, **changes: Any) -> Any:
    return find_source(SourceFlags(None if source is None else str(source), "text", run_dir, **changes), small_network)


def test_a_run_begins_with_the_checkpoint_of_its_best_evaluation_if_it_has_kept_one(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    checkpoint = newest(run)
    assert checkpoint is not None
    assert found(run, tmp_path / "new").start == StartConfig(start_from=str(run))
    assert found(run, tmp_path / "new").network.frontend == tiny_recipe().frontend
    best = Path(shutil.copytree(checkpoint, checkpoint.with_name("step_00000001")))
    (checkpoint.parent / "best").write_text("step_00000001\n")
    assert found(run, tmp_path / "new").start == StartConfig(start_from=str(best))
    assert found(checkpoint, tmp_path / "new").start == StartConfig(start_from=str(checkpoint)), "a named checkpoint is that one"


def test_random_weights_take_the_network_of_the_recipe_and_the_tokenizer_of_a_run(tiny_run: Path, tmp_path: Path) -> None:
    alone = found(RANDOM, tmp_path / "new")
    assert (alone.network.frontend.vocab_size, alone.start, alone.settings) == (150, StartConfig(), {})
    with_tokenizer = found(RANDOM, tmp_path / "new", tokenizer_from=str(tiny_run))
    assert with_tokenizer.network.frontend.vocab_size == 200, "as many symbols as the network of that run, so that both are compared"
    assert with_tokenizer.settings == {"data.tokenizer": str((tiny_run / "prepared" / "tokenizer.model").resolve())}


def test_tokenizers_are_taken_for_random_weights_and_from_runs_that_have_one(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune\.tokenizer_from is for --from random; with --from .* the tokenizer is that of "):
        found(tiny_run, tmp_path / "new", tokenizer_from=str(tiny_run))
    with pytest.raises(ConfigError, match=r"finetune\.tokenizer_from nowhere: no such folder"):
        found(RANDOM, tmp_path / "new", tokenizer_from="nowhere")
    for modality in ("speech", "vision"):
        flags = SourceFlags(RANDOM, modality, tmp_path / "new", tokenizer_from=str(tiny_run))
        with pytest.raises(ConfigError, match=rf"a network of {modality} has no tokenizer; leave it out"):
            find_source(flags, RECIPES[modality][f"{modality}_tiny"])


def _missing(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify"]


def _no_such_path(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", folder / "nowhere"]


def _no_such_name(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", "runs/nowhere"]


def _no_run(run: Path, folder: Path) -> list[object]:
    (folder / "empty").mkdir()
    return ["--task", "classify", "--from", "empty"]


def _of_seeds(run: Path, folder: Path) -> list[object]:
    for number in (1, 2):
        (folder / "seeds" / f"seed_{number}").mkdir(parents=True)
        (folder / "seeds" / f"seed_{number}" / "config.json").write_text("{}")
    return ["--task", "classify", "--from", "seeds"]


def _file(run: Path, folder: Path) -> list[object]:
    (folder / "model.pt").touch()
    return ["--task", "classify", "--from", "model.pt"]


def _unknown_task(run: Path, folder: Path) -> list[object]:
    return ["--task", "poetry", "--from", run]


def _no_task(run: Path, folder: Path) -> list[object]:
    return ["--from", run]


def _itself(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", run, "--run-dir", run]


def _own_checkpoint(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", newest(run), "--run-dir", run]


def _recipe_too(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", run, "--recipe", "text_tiny"]


def _another_tokenizer(run: Path, folder: Path) -> list[object]:
    (folder / "own.model").write_bytes(sentencepiece_model())
    return ["--task", "classify", "--from", run, "--set", "data.tokenizer=own.model"]


def _other_meaning(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", run, "--set", "model.activation=relu"]


def _other_size(run: Path, folder: Path) -> list[object]:
    return ["--task", "classify", "--from", run, "--set", "model.num_layers=2"]


def _damaged(run: Path, folder: Path) -> list[object]:
    checkpoint = newest(run)
    assert checkpoint is not None
    next(checkpoint.glob("rank_*")).write_bytes(b"")
    return ["--task", "classify", "--from", checkpoint]


def _all_damaged(run: Path, folder: Path) -> list[object]:
    _damaged(run, folder)
    return ["--task", "classify", "--from", run]


def _rewritten(run: Path, **fields: Any) -> None:
    checkpoint = newest(run)
    assert checkpoint is not None
    write_manifest(checkpoint, replace(read_manifest(checkpoint), **fields))


def _without_trunk(run: Path, folder: Path) -> list[object]:
    _rewritten(run, parameters={})
    return ["--task", "classify", "--from", run]


def _damaged_config(run: Path, folder: Path) -> list[object]:
    (run / "config.json").write_text('{"recipe": 1}')
    return ["--task", "classify", "--from", run]


def _another_model(run: Path, folder: Path) -> list[object]:
    hf_copy("text", folder / "bert", model_type="bert")
    return ["--task", "classify", "--from", "bert"]


def _model_without_weights(run: Path, folder: Path) -> list[object]:
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text(json.dumps({"model_type": "data2vec-text"}))
    return ["--task", "classify", "--from", "hf"]


CASES: list[tuple[Callable[[Path, Path], list[object]], str]] = [
    (_missing, r'--from is missing; name a run dir, a checkpoint, a Hugging Face folder, or "random"'),
    (_no_such_path, r"--from .*/nowhere: no such folder; name a run dir"),
    (_no_such_name, r"--from runs/nowhere: no such folder, and no earlier download from the Hugging Face hub"),
    (_no_run, r"--from empty: neither a run dir nor a checkpoint folder in one"),
    (_of_seeds, r"--from seeds: neither .* \(no config\.json\); there are runs in it \(seed_1, seed_2\); name one$"),
    (_file, r"--from model\.pt: neither a run dir nor a checkpoint folder in one"),
    (_unknown_task, r"--task poetry: unknown; there are sst2, "),
    (_no_task, r"--task is missing; there are sst2, "),
    (_itself, r"--from .* is in --run-dir .*; a fine-tuned run needs another --run-dir"),
    (_own_checkpoint, r"--from .* is in --run-dir .*; a fine-tuned run needs another --run-dir"),
    (_recipe_too, r"--recipe text_tiny: --from names the network already"),
    (_another_tokenizer, r"data\.tokenizer own\.model is not the tokenizer\.model of start\.start_from .*; --set data\.tokenizer=/"),
    (_other_meaning, r"is gelu there and relu here; .*accept it with --set run\.accept_changes=model\.activation$"),
    (_other_size, r"model\.num_layers is 1 there and 2 here; .*name another run: that one has 5,582 parameters, this recipe 7,806$"),
    (_damaged, r"start\.start_from .*step_00000002: rank_00000\.safetensors has 0 of \d+ bytes"),
    (_all_damaged, r"--from .*/run: none of its 1 checkpoints is complete; restore one from a copy, or name another run$"),
    (_without_trunk, r"has no parameters trunk\.\*, with which text_classify begins; name a pre-training run$"),
    (_damaged_config, r"config\.json is damaged"),
    (_another_model, r"--from bert: its config\.json has model_type 'bert'; name a directory of data2vec-text, "),
    (_model_without_weights, r"--from hf: has neither model\.safetensors nor pytorch_model\.bin"),
]


@pytest.mark.parametrize(("make", "complaint"), CASES, ids=[make.__name__.strip("_") for make, _ in CASES])
def test_a_wrong_source_or_task_is_one_line_and_nothing_is_written(
    make: Callable[[Path, Path], list[object]], complaint: str, tiny_run: Path, reviews: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    words = make(run, tmp_path)
    place = [] if "--run-dir" in words else ["--run-dir", "new"]
    refused(launch(FINETUNE["text"], [*words, "--data", reviews, *place, "--dry-run"], tmp_path), complaint)
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_modality_names_the_command_for_it(tiny_run: Path, reviews: Path, tmp_path: Path) -> None:
    words = ["--task", "classify", "--from", tiny_run, "--data", reviews, "--run-dir", "new", "--dry-run"]
    refused(launch(FINETUNE["speech"], words, tmp_path), r"--from .*: is a run of text; use launch/finetune_text\.py$")


def test_the_dry_run_says_what_it_begins_with_and_what_follows_from_the_data(tiny_run: Path, reviews: Path, tmp_path: Path) -> None:
    done = finetune(reviews, tiny_run, tmp_path / "new", "--dry-run")
    assert done.returncode == 0 and not (tmp_path / "new").exists(), done.stderr
    lines = done.stdout.splitlines()
    assert f"start: {newest(tiny_run)} (step 2 of text_tiny); the head begins with random weights" in lines
    expected = "the labels, so the parameters of the head are not counted; the number of updates, those of 3 epochs, and the intervals "
    assert f"follows from the data: {expected}of checkpoints" in lines
    assert "teacher" not in "\n".join(lines[: lines.index("{")])
