"""The prepared data of a run and its kept files: nothing of a run is lost if other data are tried. Commands as a user gives them:
tests/launch/test_changes.py."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.config import Recipe
from recipes.data.shards import load_prepared, map_array
from recipes.data.tokenizer import encode, num_symbols, read_tokenizer
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.run_dir.run_dir import RunDir
from recipes.settings import recipe_to_dict
from recipes.train.run_data import RunData, check_run_data
from tests.launching import tiny_recipe
from tests.made_up import WRITE, write_book, write_pictures
from tests.recipes.data.json_tokenizers import roberta, saved


def reading(recipe: Recipe, path: Path, *accepted: str) -> Recipe:
    """Return the recipe with other data and with these accepted changes."""
    return replace(recipe, data=replace(recipe.data, path=str(path)), run=replace(recipe.run, accept_changes=accepted))  # type: ignore[call-arg]


@pytest.fixture
def recipe(tiny_text: Path) -> Recipe:
    return tiny_recipe(data__path=tiny_text)


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDir:
    """A run after an update, written by an older release: config.json does not name the kept files."""
    run_dir = RunDir(tmp_path / "run", lambda line: None)
    prepared = MODALITIES["text"].prepare(recipe, run_dir.path / "prepared", num_processes=1)
    run_dir.save_config({"recipe": recipe_to_dict(recipe), "data_fingerprint": load_prepared(prepared).fingerprint})
    (run_dir.path / "metrics.jsonl").write_text('{"step": 1}\n')
    return run_dir


def accept_all(prepared: Path) -> None:
    """Accept any data."""


def refuse(prepared: Path) -> None:
    raise ConfigError("fewer than one batch")


def data_of(run: RunDir, recipe: Recipe) -> RunData:
    return RunData(run, recipe, MODALITIES["text"])


def test_data_that_are_refused_leave_those_of_the_run_where_they_were(run: RunDir, recipe: Recipe, tmp_path: Path) -> None:
    before = (run.path / "prepared" / "prepared.json").read_text()
    other = write_book(tmp_path / "other.txt", num_lines=500)
    for accepted, check in (((), accept_all), (("data.path",), refuse)):
        with pytest.raises(ConfigError):
            data_of(run, reading(recipe, other, *accepted)).prepare(check)
        assert (run.path / "prepared" / "prepared.json").read_text() == before
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="no text in it"):
        data_of(run, reading(recipe, tmp_path / "empty.txt", "data.path")).prepare(accept_all)
    assert (run.path / "prepared" / "prepared.json").read_text() == before


def test_new_data_that_are_refused_leave_nothing(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new")
    with pytest.raises(ConfigError, match="fewer than one batch"):
        data_of(run, recipe).prepare(refuse)
    assert not (run.path / "prepared").exists()


def test_the_tokenizer_of_a_run_that_did_not_record_it_is_that_of_the_folder_with_its_fingerprint(
    run: RunDir, recipe: Recipe, tmp_path: Path
) -> None:
    tokenizer = (run.path / "prepared" / "tokenizer.model").read_bytes()
    other = write_book(tmp_path / "other.txt", num_lines=500)
    data = data_of(run, reading(recipe, other, "data.path"))
    prepared = data.prepare(accept_all)
    assert (prepared / "tokenizer.model").read_bytes() == tokenizer == (run.path / "tokenizer.model").read_bytes()
    identity = data.identity("f" * 64)
    assert identity.kept == {"tokenizer.model": load_prepared(prepared).tokenizer_sha256} and identity.data_contents is None


def test_if_the_tokenizer_is_lost_other_text_is_refused_and_the_same_text_is_accepted(run: RunDir, recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(run.path / "prepared")
    other = write_book(tmp_path / "other.txt", num_lines=500)
    with pytest.raises(ConfigError, match=r"is not that of the run \(of unknown sha256\), .*; put that file back as"):
        data_of(run, reading(recipe, other, "data.path")).prepare(accept_all)
    assert not (run.path / "prepared").exists()
    assert data_of(run, recipe).prepare(accept_all).exists()


def test_a_given_tokenizer_that_is_not_the_runs_is_refused_with_the_one_that_is(run: RunDir, recipe: Recipe, tmp_path: Path) -> None:
    other = reading(recipe, write_book(tmp_path / "other.txt", num_lines=500), "data.path", "data.tokenizer")
    theirs = MODALITIES["text"].prepare(other, tmp_path / "theirs", num_processes=1) / "tokenizer.model"
    given: Any = replace(other.data, tokenizer=str(theirs))  # type: ignore[call-arg]
    with pytest.raises(
        ConfigError, match=r"theirs/tokenizer\.model is not that of the run, .*; --set data\.tokenizer=\S+run/tokenizer\.model"
    ):
        data_of(run, replace(other, data=given)).prepare(accept_all)
    given = replace(other.data, tokenizer=str(run.path / "tokenizer.model"))  # type: ignore[call-arg]
    assert data_of(run, replace(other, data=given)).prepare(accept_all).exists(), "the remedy works"


def test_kept_files_are_copied_back_for_probes_and_do_not_count_as_a_prepared_folder(run: RunDir, recipe: Recipe) -> None:
    data = data_of(run, recipe)
    data.prepare(accept_all)
    data.keep()
    before = (run.path / "prepared" / "tokenizer.model").read_bytes()
    config = json.loads((run.path / "config.json").read_text()) | {"kept": data.identity("").kept}
    run.save_config(config)
    shutil.rmtree(run.path / "prepared")
    data_of(run, recipe).copy_kept_to_prepared()
    assert [path.read_bytes() for path in (run.path / "prepared").iterdir()] == [before]
    assert load_prepared(data_of(run, recipe).prepare(accept_all)).fingerprint == config["data_fingerprint"]


@pytest.mark.parametrize("finished", [False, True])
def test_prepared_data_that_a_killed_launch_moved_aside_are_used_again(run: RunDir, recipe: Recipe, finished: bool) -> None:
    """Even if the text is gone by now, so that they could not be prepared again."""
    folder = run.path / "prepared"
    fingerprint = load_prepared(folder).fingerprint
    folder.rename(run.path / ".prepared.old")
    Path(str(recipe.data.path)).rename(run.path / "moved.txt")
    try:
        if finished:
            data_of(run, recipe).copy_kept_to_prepared()
        else:
            data_of(run, recipe).prepare(accept_all)
    finally:
        (run.path / "moved.txt").rename(Path(str(recipe.data.path)))
    assert load_prepared(folder).fingerprint == fingerprint and not (run.path / ".prepared.old").exists()


def test_recorded_bad_items_whose_files_are_gone_count_as_removed(run: RunDir, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"fixed")
    for where in (tmp_path / "gone.png", tmp_path / "there.png", "hub row 3"):
        run.event("bad_item", step=1, where=str(where), reason="truncated")
    data = data_of(run, recipe)
    assert data.removed() == {f"{tmp_path}/gone.png"} and len(data.recorded_bad) == 2


def test_rows_and_stretches_are_removed_by_their_files_and_never_by_their_names(run: RunDir, recipe: Recipe, tmp_path: Path) -> None:
    """A row is no path, so its name is never there; and a name that is no UTF-8 is recorded in another form."""
    for name in ("a.wav", "b\udce9.wav", "x.parquet"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "linked.png").symlink_to(tmp_path / "store")
    items = {
        f"{tmp_path}/x.parquet row 3": None,
        f"{tmp_path}/a.wav 0.000 to 4.000 s": f"{tmp_path}/a.wav",
        f"{tmp_path}/b\\udce9.wav": f"{tmp_path}/b\udce9.wav",
        f"{tmp_path}/gone.wav from 1.500 s": f"{tmp_path}/gone.wav",
        f"{tmp_path}/linked.png": f"{tmp_path}/linked.png",
    }
    for where, file in items.items():
        run.event("bad_item", step=1, where=where, reason="truncated", file=file)
    for where in ("y.parquet row 17", "c.wav 0.000 to 4.000 s", "c.wav from 1.500 s"):  # of an older release
        run.event("bad_item", step=1, where=f"{tmp_path}/{where}", reason="truncated")
    assert data_of(run, recipe).removed() == {f"{tmp_path}/gone.wav from 1.500 s"}


def test_a_file_that_cannot_be_looked_for_is_not_removed(
    run: RunDir, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.event("bad_item", step=1, where=f"{tmp_path}/locked/a.png", reason="Permission denied", file=f"{tmp_path}/locked/a.png")
    data = data_of(run, recipe)

    def refuse_to_look(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("recipes.train.run_data.os.lstat", refuse_to_look)
    assert data.removed() == frozenset()


def test_a_dry_run_looks_at_the_prepared_folder_of_the_run_as_a_launch_does(recipe: Recipe, tmp_path: Path) -> None:
    text = write_book(tmp_path / "book.txt", num_lines=500)
    reads_book, other = reading(recipe, text), write_book(tmp_path / "other.txt", num_lines=300)
    path, modality = tmp_path / "run", MODALITIES["text"]
    run = RunDir(path, lambda line: None)
    assert check_run_data(path, reads_book, modality) == "" and not (path / "prepared").exists(), "a dry run prepares nothing"
    prepared = data_of(run, reads_book).prepare(accept_all)
    text.unlink()
    said = f"{prepared}, prepared by an earlier launch"
    assert check_run_data(path, reads_book, modality) == said, "the text itself is not needed any more"
    assert check_run_data(path, reading(recipe, other), modality) == "", "a run without an update prepares other data"
    run.save_config({"recipe": recipe_to_dict(reads_book), "data_fingerprint": load_prepared(prepared).fingerprint})
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"other\.txt; go back to that, accept the other with --set run\.accept_changes=data\.path"):
        check_run_data(path, reading(recipe, other), modality)
    assert check_run_data(path, reading(recipe, other, "data.path"), modality) == ""
    assert check_run_data(path, reading(recipe, prepared), modality) == "", "the user names a prepared folder"


def test_a_dry_run_passes_over_repaired_files_as_a_launch_does(tmp_path: Path) -> None:
    tmp_path.joinpath("made").mkdir()
    pictures = WRITE["vision"](tmp_path / "made")
    recipe = tiny_recipe("vision", data__path=pictures, data__max_bad_fraction=0.0)
    run = RunDir(tmp_path / "run", lambda line: None)
    MODALITIES["vision"].prepare(recipe, run.path / "prepared", num_processes=1)
    repaired, *_, another = sorted(path for path in pictures.rglob("*") if path.is_file())
    shutil.copy(another, repaired)
    run.save_config({"recipe": recipe_to_dict(recipe), "data_fingerprint": ""})
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"1 of .* files hold something else than when it was prepared"):
        check_run_data(run.path, recipe, MODALITIES["vision"])
    run.event("bad_item", step=1, where=str(repaired), reason="truncated", file=str(repaired))
    assert check_run_data(run.path, recipe, MODALITIES["vision"]).startswith(f"{run.path}/prepared, ")


def test_changed_and_missing_files_are_named_in_a_line_and_an_event_also_those_that_could_not_be_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, run = write_pictures(tmp_path / "pictures"), RunDir(tmp_path / "run")
    recipe = tiny_recipe("vision", data__path=pictures)
    paths = sorted(pictures.iterdir())
    for change in ("none", "two changed, two removed"):
        if change != "none":
            run.event("bad_item", step=1, where=str(paths[0]), reason="truncated")
            for path in paths[:2]:
                path.write_bytes(paths[5].read_bytes())
            for path in paths[2:4]:
                path.unlink()
        capsys.readouterr()
        RunData(run, recipe, MODALITIES["vision"]).prepare(accept_all)
    folder, (a, b, c, d) = run.path / "prepared", map(str, paths[:4])
    assert capsys.readouterr().out.splitlines() == [
        f"warning: {folder}: 2 of 40 files hold something else than when it was prepared, such as {a}, {b}; they are read as they are now",
        f"warning: {folder}: 2 of 40 files are gone or cannot be read, such as {c}, {d}; others replace them",
    ]
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["bad_item", "data_change"]
    counts = {"num_compared": 40, "num_changed": 2, "num_missing": 2}
    assert events[1] == {"time": events[1]["time"], "event": "data_change", **counts, "changed": [b, a], "missing": [c, d]}


def long_book(run: RunDir, recipe: Recipe, content: dict[str, Any]) -> tuple[Recipe, list[int]]:
    """Write these values into the run's configuration, and return a recipe that reads a text with a paragraph of 5,000 characters without
    a space, and the tokens that a preparation makes of it for the run."""
    run.save_config(json.loads((run.path / "config.json").read_text()) | content)
    book = write_book(run.path.parent / "long.txt", num_lines=500)
    book.write_text("x" * 5000 + "\n" + book.read_text())
    other = reading(recipe, book, "data.path")
    prepared = data_of(run, other).prepare(accept_all)
    return other, map_array(prepared / "tokens.bin", np.uint16).tolist()


def test_a_run_keeps_the_rules_by_which_its_text_became_tokens(run: RunDir, recipe: Recipe) -> None:
    model, kept = str(run.path / "tokenizer.model"), data_of(run, recipe).identity("").kept
    for content, version in (({}, 1), ({"encoding": 2}, 2), ({"encoding": None}, 1)):
        other, tokens = long_book(run, recipe, {"kept": kept, **content})
        expected, _ = encode(model, ["x" * 5000], version)
        assert tokens[: len(expected)] == expected.tolist()
        data = data_of(run, other)
        data.prepare(accept_all)
        assert data.identity("f").encoding == version
        shutil.rmtree(run.path / "prepared")


def test_a_start_without_an_update_leaves_no_tokenizer_of_another_kind(recipe: Recipe, tmp_path: Path) -> None:
    text = Path(str(recipe.data.path)).read_text().splitlines()
    given = saved(roberta(text, 300), tmp_path / "given")
    run = RunDir(tmp_path / "run", lambda line: None)
    changed: Any = replace(recipe.data, tokenizer=str(given), lowercase=False)  # type: ignore[call-arg]
    frontend = replace(recipe.frontend, vocab_size=num_symbols(read_tokenizer(given, None)))  # type: ignore[call-arg]
    for name, tried in (("tokenizer.model", recipe), ("tokenizer.json", replace(recipe, data=changed, frontend=frontend))):
        data = data_of(run, tried)
        data.prepare(accept_all)
        data.keep()
        assert [path.name for path in run.path.glob("tokenizer.*")] == [name]
        shutil.rmtree(run.path / "prepared")


def test_prepared_data_with_a_tokenizer_of_another_kind_than_the_runs_are_refused_with_the_runs(
    run: RunDir, recipe: Recipe, tmp_path: Path
) -> None:
    given = saved(roberta(Path(str(recipe.data.path)).read_text().splitlines(), 300), tmp_path / "given")
    frontend = replace(recipe.frontend, vocab_size=num_symbols(read_tokenizer(given, None)))  # type: ignore[call-arg]
    changed: Any = replace(recipe.data, tokenizer=str(given), lowercase=False)  # type: ignore[call-arg]
    other = replace(recipe, frontend=frontend, data=changed)
    theirs = MODALITIES["text"].prepare(other, tmp_path / "theirs", num_processes=1)
    with pytest.raises(
        ConfigError, match=r"its tokenizer\.json .* is not that of the run .*; prepare them again with --set data\.tokenizer=\S+model, or"
    ):
        data_of(run, reading(replace(recipe, frontend=frontend), theirs, "data.path")).prepare(accept_all)
