"""A tokenizer.json from preparation to probe, as a user runs it: the tokens are those of Hugging Face, and a run keeps its tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from recipes.data.shards import load_prepared, map_array
from recipes.data.tokenizer import EOS
from recipes.interop.tokenizer_export import export_tokenizer
from tests.launching import PREPARE, PRETRAIN_TEXT, PROBE, launch, overrides, read_jsonl, refused
from tests.made_up import write_book
from tests.recipes.data.json_tokenizers import bert, byte_level, roberta, saved

KINDS: dict[str, Callable[[list[str]], Tokenizer]] = {
    "roberta": lambda text: roberta(text, 320),
    "gpt2": lambda text: byte_level(("<|endoftext|>",), text, 320),
    "bert": lambda text: bert(text, 120),
}
NUM_ADDED = {"roberta": 0, "gpt2": 4, "bert": 0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_run_with_a_tokenizer_json_is_prepared_trained_resumed_and_probed(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    book = write_book(tmp_path / "book.txt", num_lines=800)
    lines = book.read_text().splitlines()
    given = KINDS[kind](lines)
    path, size = saved(given, tmp_path / "given"), given.get_vocab_size() + NUM_ADDED[kind]
    numbers = {"frontend__vocab_size": size, "data__lowercase": kind == "bert"}
    args = ["text", "--data", book, "--out", "made", *overrides(data__tokenizer=path, **numbers)]
    done = launch(PREPARE, args, tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and (f"added, which makes {size} symbols" in done.stdout) == (kind == "gpt2")

    info = load_prepared(tmp_path / "made")
    for name, content in export_tokenizer(tmp_path / "made" / "tokenizer.json", 32).files.items():
        (tmp_path / "given" / name).write_bytes(content)
    (tmp_path / "given" / "config.json").write_text(json.dumps({"model_type": "data2vec-text"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "given")(lines, add_special_tokens=False).input_ids
    expected = [number for ids in theirs for number in (*ids, EOS)]
    assert map_array(tmp_path / "made" / "tokens.bin", info.dtype).tolist() == expected

    for steps, data in ((5, "made"), (7, "made")):
        done = launch(PRETRAIN_TEXT, ["--data", data, "--run-dir", "run", *overrides(run__max_steps=steps, **numbers)], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [*range(1, 8)]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["kept"] == {"tokenizer.json": info.tokenizer_sha256} and config["encoding"] == info.encoding
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == (tmp_path / "made" / "tokenizer.json").read_bytes()

    for args in ([], ["--data", write_book(tmp_path / "other.txt", num_lines=500)]):
        done = launch(PROBE, ["--from", "run", "--task", "cloze", *args], tmp_path)
        assert (done.returncode, done.stderr) == (0, "") and "held-out blanks" in done.stdout


@pytest.mark.slow
def test_other_text_is_read_with_the_tokenizer_json_of_the_run(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book.txt", num_lines=800)
    given = roberta(book.read_text().splitlines(), 320)
    path = saved(given, tmp_path / "given").parent
    numbers = {"frontend__vocab_size": given.get_vocab_size()}

    def train(data: Path, steps: int, *args: object, **changes: object):  # type: ignore[no-untyped-def]
        command = ["--data", data, "--run-dir", "run", *overrides(run__max_steps=steps, **numbers, **changes), *args]
        return launch(PRETRAIN_TEXT, command, tmp_path)

    settings = {"data__tokenizer": path, "data__lowercase": False}
    assert train(book, 2, **settings).returncode == 0
    other = write_book(tmp_path / "other.txt", num_lines=500)
    done = train(other, 3, "--set", "run.accept_changes=data.path", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    run = tmp_path / "run"
    tokens = map_array(run / "prepared" / "tokens.bin", np.uint16).tolist()
    first = given.encode(other.read_text().splitlines()[0], add_special_tokens=False).ids
    assert tokens[: len(first) + 1] == [*first, EOS] and not (run / "tokenizer.model").exists()
    another = saved(roberta(other.read_text().splitlines(), 320), tmp_path / "another").parent
    changed = settings | {"data__tokenizer": another}
    for more in ((), ("--dry-run",)):
        refused(
            train(other, 4, "--set", "run.accept_changes=data.path", *more, **changed), r"data\.tokenizer \S+another is not that of the run"
        )
    path.rename(tmp_path / "moved")
    for step, place in ((4, path), (5, tmp_path / "moved" / "tokenizer.json"), (6, None)):  # gone, another spelling, not given
        done = train(other, step, "--set", "run.accept_changes=data.path", **(settings | {"data__tokenizer": place or "none"}))
        assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_is_no_tokenizer_is_one_line_and_leaves_nothing(tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 3}')
    (tmp_path / "empty").mkdir()
    for given, complaint in {"config.json": "JSON, but no tokenizer", "empty": r"there is no tokenizer\.json in"}.items():
        args = ["text", "--data", tiny_text, "--out", "made", *overrides(data__tokenizer=given, data__lowercase=False)]
        refused(launch(PREPARE, args, tmp_path), rf"data\.tokenizer .*{given}: {complaint}")
        assert not (tmp_path / "made").exists()
