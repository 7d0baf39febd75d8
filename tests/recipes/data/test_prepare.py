"""The whole preparation of text: its result, what is reused, and that every error leaves nothing behind."""

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece

from model.frontends.config import TextFrontendConfig
from recipes.data import encoding, prepare, progress
from recipes.data.packing import Boundaries, build_samples
from recipes.data.prepare import prepare_text
from recipes.data.shards import CONTENT_FILES, hash_files, load_prepared, map_array
from recipes.data.source import open_source
from recipes.data.tokenizer import TextSample
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError
from tests.durability import durable_moves


def refused(data: TextDataConfig, frontend: TextFrontendConfig, tmp_path: Path, complaint: str) -> None:
    """Check that the preparation raises a one-line ConfigError that matches `complaint`, and leaves nothing behind."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        prepare_text(data, frontend, tmp_path / "run" / "prepared", num_processes=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_tokens_are_the_text_and_the_counts_are_right(prepared: Path, data: TextDataConfig) -> None:
    info = load_prepared(prepared)
    tokens = map_array(prepared / "tokens.bin", info.dtype)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(prepared / "tokenizer.model"))
    ends = map_array(prepared / "paragraph_ends.bin", np.int64)
    texts = [processor.decode(part[:-1].tolist()) for part in np.split(tokens, ends[:-1])]
    assert texts == [text for _, text in open_source(data).paragraphs()]
    assert (info.dtype, info.vocab_size, info.source) == ("uint16", 64, data.path)
    assert {key: info.counts[key] for key in ("documents", "paragraphs", "tokens")} == {
        "documents": 4,
        "paragraphs": 480,
        "tokens": len(tokens),
    }
    assert info.counts["bytes"] == sum(len(text.encode()) for text in texts)


def test_the_samples_are_packed_by_the_recipes_numbers_and_counted_by_split(prepared: Path, data: TextDataConfig) -> None:
    bounds = Boundaries(*(map_array(prepared / name, np.int64) for name in ("paragraph_ends.bin", "document_ends.bin")))
    expected = build_samples(bounds, sequence_length=32, break_mode="none", heldout_fraction=0.05)
    counts = load_prepared(prepared).counts
    for split, samples_N2 in expected.items():
        np.testing.assert_array_equal(np.load(prepared / f"{split}.npy"), samples_N2)
        assert (counts[f"{split}_samples"], counts[f"{split}_tokens"]) == (len(samples_N2), samples_N2[:, 1].sum())
        assert len(samples_N2) >= 1


def test_shards_have_the_dtype_of_the_vocabulary(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "token_dtype", lambda vocab_size: {64: np.dtype(np.uint32)}[vocab_size])
    wide = prepare_text(data, frontend, tmp_path / "prepared", num_processes=1)
    assert load_prepared(wide).dtype == "uint32"
    np.testing.assert_array_equal(map_array(wide / "tokens.bin", np.uint32), map_array(prepared / "tokens.bin", np.uint16))


def test_prepared_text_is_synced_to_disk_before_it_is_renamed(tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig) -> None:
    with durable_moves(tmp_path) as recorder:
        prepare_text(data, frontend, tmp_path / "run" / "prepared", num_processes=1)
    assert recorder.moves == ["run/prepared"]


def test_the_fingerprint_is_of_every_file_that_training_reads(prepared: Path) -> None:
    of_sources = {"paths.bin", "path_ends.bin", "contents.bin"}
    assert {"tokenizer.model", *CONTENT_FILES, *of_sources, "prepared.json"} == {path.name for path in prepared.iterdir()}
    assert load_prepared(prepared).fingerprint == hash_files([prepared / name for name in ("tokenizer.model", *CONTENT_FILES)])


def test_the_result_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    monkeypatch.setattr(encoding, "BATCH_BYTES", 5000)
    monkeypatch.setattr(prepare, "BYTES_PER_PROCESS", 1)
    lines: list[str] = []
    other = prepare_text(data, frontend, tmp_path / "prepared", num_processes=3, log=lines.append)
    info = load_prepared(other)
    size, counts = f"{info.counts['bytes'] / 1e6:.1f}", info.counts
    assert re.sub(r"\d+\.\d+ (s,|MB/s)", r"? \1", "\n".join(lines)).splitlines() == [
        "all: 4 files (4 .txt)",
        f"training a unigram tokenizer of 64 symbols on {size} of {size} MB",
        f"tokenized {size} of {size} MB in ? s, ? MB/s with 3 processes",
        f"prepared 4 documents, {counts['tokens']} tokens: {counts['train_samples']} train and {counts['valid_samples']} held-out samples",
    ]
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {path.name: path.read_bytes() for path in prepared.iterdir()}


@pytest.mark.parametrize("is_shown", [True, False])
def test_bars_are_drawn_if_progress_and_removed_before_the_next_line(
    tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def build_bar(label: str, total: int, unit: str) -> SimpleNamespace:
        events.append(label)
        return SimpleNamespace(update=lambda num_bytes: None, close=lambda: events.append("gone"))

    monkeypatch.setattr(progress, "_build_bar", build_bar)
    monkeypatch.setattr(progress, "terminal_columns", lambda: 80)
    options = {"progress": is_shown, "log": lambda line: events.append(line.split()[0])}
    prepare_text(data, frontend, tmp_path / "prepared", num_processes=1, **options)
    bars = [["reading", "gone"], ["tokenizing", "gone"]] if is_shown else [[], []]
    assert events == ["all:", *bars[0], "training", *bars[1], "tokenized", "prepared"]


def test_a_finished_preparation_is_reused_even_when_the_text_is_gone(
    tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    text = tmp_path / "book.txt"
    text.write_text("".join(path.read_text() for path in sorted(Path(str(data.path)).iterdir())))
    moved = replace(data, path=str(text))
    out = prepare_text(moved, frontend, tmp_path / "prepared", num_processes=1)
    before = (out / "prepared.json").stat().st_mtime_ns
    text.unlink()
    assert prepare_text(moved, frontend, tmp_path / "prepared") == out
    assert prepare_text(replace(moved, path=os.path.relpath(text)), frontend, tmp_path / "prepared") == out
    assert (out / "prepared.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"prepared with data\.path .*book\.txt, now None"):
        prepare_text(replace(moved, path=None), frontend, out)
    with pytest.raises(ConfigError, match=r"prepared with data\.lowercase False, now True"):
        prepare_text(replace(moved, lowercase=True), frontend, out)


def test_a_prepared_folder_given_as_data_is_returned_as_it_is(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    given = replace(data, path=str(prepared), lowercase=True)  # settings of the raw text no longer matter
    assert prepare_text(given, frontend, tmp_path / "out") == prepared
    assert prepare_text(replace(given, tokenizer=str(prepared / "tokenizer.model")), frontend, tmp_path / "out") == prepared
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("frontend", "vocab_size", 80),
        ("data", "sequence_length", 64),
        ("data", "break_mode", "complete_doc"),
        ("data", "heldout_fraction", 0.1),
    ],
)
def test_a_prepared_folder_that_does_not_fit_names_the_number(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig, section: str, key: str, value: object
) -> None:
    given = replace(data, path=str(prepared))
    if section == "data":
        given = replace(given, **{key: value})
    else:
        frontend = replace(frontend, **{key: value})
    refused(given, frontend, tmp_path, rf"prepared with {section}\.{key} \S+, the recipe has {value}; --set {section}\.{key}=")


def test_a_prepared_folder_with_another_tokenizer_is_refused(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    other = prepare_text(replace(data, tokenizer_type="bpe"), frontend, tmp_path / "other", num_processes=1)
    given = replace(data, path=str(prepared), tokenizer=str(other / "tokenizer.model"))
    refused(given, frontend, tmp_path, "prepared with another tokenizer")


def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig) -> None:
    given = replace(
        data, tokenizer=str(prepared / "tokenizer.model"), tokenizer_type="bpe"
    )  # the given tokenizer is not bpe: the setting has no effect
    again = prepare_text(given, frontend, tmp_path / "out", num_processes=1)
    assert load_prepared(again).fingerprint == load_prepared(prepared).fingerprint


def test_the_tokenizers_sample_has_the_size_of_the_setting(
    tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Sample(TextSample):
        def __init__(self, max_bytes: int) -> None:
            sizes.append(max_bytes)
            super().__init__(max_bytes)

    monkeypatch.setattr(prepare, "TextSample", Sample)
    prepare_text(replace(data, tokenizer_sample_megabytes=3), frontend, tmp_path / "prepared", num_processes=1)
    assert sizes == [3_000_000]


def test_paths_with_a_tilde_are_found(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(prepared.parent))
    model = f"~/{prepared.name}/tokenizer.model"
    assert prepare_text(replace(data, path=f"~/{prepared.name}", tokenizer=model), frontend, tmp_path / "out") == prepared
    monkeypatch.setenv("HOME", str(Path(str(data.path)).parent))
    again = prepare_text(replace(data, path=f"~/{Path(str(data.path)).name}"), frontend, tmp_path / "out", num_processes=1)
    assert load_prepared(again).source == data.path


def test_missing_empty_binary_and_non_utf8_text_leave_nothing_behind(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    texts = {"empty": b"\n\n", "binary": b"a\0b", "latin": b"one\ncaf\xe9\n"}
    for name, content in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "book.txt").write_bytes(content)
    refused(replace(data, path=str(tmp_path / "nowhere")), frontend, tmp_path, "no such file or folder")
    refused(replace(data, path=str(tmp_path / "empty")), frontend, tmp_path, "empty: no text in it")
    given = str(prepared / "tokenizer.model")  # with a given tokenizer, text is first read when it is tokenized
    refused(replace(data, path=str(tmp_path / "empty"), tokenizer=given), frontend, tmp_path, "empty: no text in it")
    refused(replace(data, path=str(tmp_path / "binary")), frontend, tmp_path, r"book\.txt line 1: a NUL byte")
    refused(replace(data, path=str(tmp_path / "latin")), frontend, tmp_path, r"book\.txt line 2: byte 0xe9 is not UTF-8")


def test_bad_text_after_the_start_of_writing_leaves_nothing_behind(
    tmp_path: Path, prepared: Path, data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    text = tmp_path / "book.txt"
    text.write_bytes(b"good line\n" * 50_000 + b"\xff\n")
    given = replace(data, path=str(text), tokenizer=str(prepared / "tokenizer.model"))  # so that writing begins before the bad line
    refused(given, frontend, tmp_path, r"book\.txt line 50001: byte 0xff")


def test_settings_that_cannot_work_are_refused(tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig) -> None:
    refused(data, replace(frontend, vocab_size=9000), tmp_path, r"vocab_size 9000 is too large.*--set frontend\.vocab_size=\d+")
    refused(replace(data, sequence_length=100_000), frontend, tmp_path, "the text is too short")


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path, data: TextDataConfig, frontend: TextFrontendConfig) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no prepared folder"):
        prepare_text(data, frontend, tmp_path)
    assert os.listdir(tmp_path) == ["notes.md"]


@pytest.mark.parametrize(("limit", "num_copies"), [(1000, 1), (400_000, 12)], ids=["at the tokenizer", "at the tokens"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, data: TextDataConfig, limit: int, num_copies: int) -> None:
    text = tmp_path / "book.txt"
    text.write_text("".join(path.read_text() for path in Path(str(data.path)).iterdir()) * num_copies)
    script = (
        "import sys; from pathlib import Path; from recipes.data.prepare import *\n"
        f"data = TextDataConfig(path={str(text)!r}, tokenizer_type='unigram', sequence_length=32)\n"
        "try: prepare_text(data, TextFrontendConfig(vocab_size=64), Path(sys.argv[1]), num_processes=1)\n"
        "except ConfigError as error: sys.exit(f'error: {error}')\n"
    )
    root = Path(prepare.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run" / "prepared")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),  # gives EFBIG, which is handled like ENOSPC
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "prepared: cannot be written (File too large" in done.stderr
    assert "bytes free on that disk; free space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["book.txt"]


def test_importing_the_preparation_costs_no_heavy_import() -> None:
    heavy = "('torch', 'datasets', 'transformers', 'megatron', 'deepspeed')"
    script = f"import sys, recipes.data.prepare; print([name for name in {heavy} if name in sys.modules])"
    root = Path(prepare.__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", script], cwd=root, text=True, timeout=60).strip() == "[]"
