"""The embed command: its flags, which messages name, and ranks that must agree. Whole runs are in tests/launch/test_embed.py."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file

from recipes.errors import ConfigError
from recipes.interop import model_source
from recipes.interop.embed import BATCH, build_parser, run_embed
from tests.distributed import run_distributed
from tests.launching import ROOT
from tests.recipes.interop.hf_copies import copy_golden

RUN = ROOT / "tests" / "old_runs" / "text" / "run"
TEXTS = "ba do\nki lu\nme\n"

FLAGS = {"--help", "--from", "--data", "--out", "--layer", "--pool", "--weights", "--split", "--column", "--batch-size", "--force"}


def parsed(*words: str) -> argparse.Namespace:
    return build_parser("").parse_args(["--from", "a", "--out", "b.npz", *words])


def test_the_flags_and_their_defaults() -> None:
    flags = {flag for action in build_parser("")._actions for flag in action.option_strings}
    assert flags - {"-h", "--local_rank"} == FLAGS
    args = parsed()
    assert (args.layer, args.pool, args.weights, args.batch_size, args.data, args.split) == ("last", "mean", "student", BATCH, None, None)


def test_a_wrong_layer_or_file_is_found_before_the_network_is_looked_for() -> None:
    for words, complaint in ((["--layer", "x"], "^--layer x: must be"), (["--out", "a.csv"], "^--out a.csv: unknown kind")):
        with pytest.raises(ConfigError, match=complaint):
            run_embed(parsed(*words), print)


def embed_on_ranks(words: list[list[str]]) -> str | None:
    """Run the command on each rank with its own words, and return the message of its ConfigError."""
    try:
        run_embed(build_parser("").parse_args(words[dist.get_rank()]), lambda line: None)
    except ConfigError as error:
        return str(error)
    return None


@pytest.fixture
def words(tmp_path: Path) -> list[list[str]]:
    """The words of two ranks. Later ones win."""
    (tmp_path / "a.txt").write_text(TEXTS)
    return [["--from", str(RUN), "--data", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out.npz")] for _ in range(2)]


def test_rank_0_decides_which_checkpoint_all_ranks_read(words: list[list[str]], tmp_path: Path) -> None:
    words[1] += ["--from", str(tmp_path / "nowhere")]
    assert run_distributed(embed_on_ranks, 2, words) == [None, None]
    with np.load(tmp_path / "out.npz") as stored:
        assert stored["index"].tolist() == [0, 1, 2] and json.loads(str(stored["about"]))["step"] == 20


def test_an_error_on_one_rank_is_on_all_with_its_place(words: list[list[str]], tmp_path: Path) -> None:
    words[1] += ["--data", str(tmp_path / "b.txt")]
    one, two = run_distributed(embed_on_ranks, 2, words)
    assert one == two and "b.txt: no such file or folder" in str(one) and not (tmp_path / "out.npz").exists()


def test_ranks_with_different_items_are_refused(words: list[list[str]], tmp_path: Path) -> None:
    for text, name in ((TEXTS, "places of the items (digest)"), (TEXTS + "no\n", "number of items")):
        (tmp_path / "b.txt").write_text(text)
        found = run_distributed(embed_on_ranks, 2, [words[0], [*words[1], "--data", str(tmp_path / "b.txt")]])
        assert all(f"(1 of 2 ranks): {name} is " in str(message) for message in found) and not (tmp_path / "out.npz").exists()


def embed_of_own_copy(words: list[list[str]], nodes: str) -> str | None:
    """As embed_on_ranks(), of a hub name of which each rank has a copy of its own in the folder `nodes`."""
    model_source.find_hf_folder = lambda name, flag: Path(nodes, ("one", "two")[dist.get_rank()])
    return embed_on_ranks([[*own, "--from", "some/model"] for own in words])


def printed(words: list[str]) -> tuple[list[str], str | None]:
    """Run the command, and return what it prints and the message of its ConfigError."""
    lines = list[str]()
    try:
        run_embed(build_parser("").parse_args(words), lines.append)
    except ConfigError as error:
        return lines, str(error)
    return lines, None


def test_ranks_with_different_weights_are_refused(words: list[list[str]], tmp_path: Path) -> None:
    for name in ("one", "two"):
        copy_golden("text", tmp_path / "nodes" / name)
    weights = tmp_path / "nodes" / "two" / "model.safetensors"
    state = load_file(weights)
    state["encoder.layer.2.output.dense.bias"][3] += 1e-6
    save_file(state, weights)
    shutil.copy(tmp_path / "nodes" / "one" / "tokenizer.model", tmp_path / "nodes" / "two")
    found = run_distributed(embed_of_own_copy, 2, words, str(tmp_path / "nodes"))
    assert all("digest of the weights is " in str(message) for message in found) and not (tmp_path / "out.npz").exists()


def test_notes_about_the_network_are_printed_and_in_the_file(tmp_path: Path) -> None:
    folder = copy_golden("vision", tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "image_mean": [0.5] * 3}))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "a.png")
    out = str(tmp_path / "out.npz")
    ((lines, message),) = run_distributed(printed, 1, ["--from", str(folder), "--data", str(tmp_path / "images"), "--out", out])
    with np.load(out) as stored:
        (note,) = json.loads(str(stored["about"]))["notes"]
    assert message is None and note in lines and "image_mean [0.5, 0.5, 0.5] (here " in note


def test_a_path_that_has_words_of_a_message_is_shown_as_it_is(words: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "layer dir" / "--set data.column=" / "no.txt"
    (found,) = run_distributed(embed_on_ranks, 1, [[*words[0], "--data", str(path)]])
    assert f"{path}: no such file" in str(found)
