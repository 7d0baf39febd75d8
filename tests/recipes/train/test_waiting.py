"""Large data are not prepared while many ranks wait: the error has the command that prepares them before the job."""

import shlex
from pathlib import Path

import pytest

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledTextDataConfig
from recipes.modalities.registry import MODALITIES
from recipes.run_dir.run_dir import RunDir
from recipes.train import waiting
from recipes.train.prepare import build_parser, run_prepare
from recipes.train.run_data import RunData
from recipes.train.waiting import check_not_waiting, large_amount
from tests.launching import tiny_recipe

COMMAND = [
    "launch/pretrain_text.py",
    "--recipe",
    "text_tiny",
    "--set=frontend.vocab_size=300",
    "--set",
    "data.sequence_length=32",
    "--dry-run",
]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MANY_FILES", 5)
    monkeypatch.setattr(waiting, "MANY_BYTES", 10_000)
    monkeypatch.setattr(waiting, "MEASURED_FILES", 3)


def folder_of(folder: Path, sizes: list[int]) -> Path:
    for number, size in enumerate(sizes):
        path = folder / f"part{number % 2}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return folder


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([10] * 5, ""), ([10] * 6, "more than 5 files"), ([2100] * 5, "about 0 GB"), ([1900] * 5, ""), ([], "")],
)
def test_the_amount_counts_files_and_estimates_bytes_from_the_first_ones(sizes: list[int], expected: str, tmp_path: Path) -> None:
    assert large_amount(folder_of(tmp_path, sizes)) == expected


def test_one_file_and_linked_folders_count_once(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", [10] * 4)
    (data / "again").symlink_to(data / "part0")
    (data / "loop").symlink_to(data)
    (data / "part0" / "gone").symlink_to(data / "nothing")
    assert large_amount(data) == ""
    (tmp_path / "big.txt").write_bytes(bytes(10_001))
    assert large_amount(tmp_path / "big.txt") == "about 0 GB" and large_amount(tmp_path / "a hub name") == ""


def asked(recipe: Recipe, num_ranks: int) -> None:
    check_not_waiting(recipe, Path("run/prepared"), num_ranks, command=COMMAND, kept={"data.tokenizer": Path("/other/tokenizer.model")})


def test_many_ranks_do_not_wait_for_large_data(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "my data", [10] * 6)
    recipe = tiny_recipe(data__path=data)
    asked(recipe, 16)
    asked(tiny_recipe(data__path=data / "part0"), 17)
    asked(tiny_recipe(), 17)  # the shipped sample
    asked(Recipe(**{**vars(recipe), "data": LabelledTextDataConfig(path=str(data))}), 17)
    with pytest.raises(ConfigError) as caught:
        asked(recipe, 17)
    expected = (
        f"--data {data}: not prepared, more than 5 files, and 17 ranks would wait for it; run launch/prepare.py first: python "
        f"launch/prepare.py text --recipe text_tiny --data {shlex.quote(str(data))} --out run/prepared --set frontend.vocab_size=300 "
        "--set data.sequence_length=32 --set data.tokenizer=/other/tokenizer.model; then give the same command again"
    )
    assert str(caught.value) == expected


def test_a_run_finds_what_the_command_of_the_error_has_prepared(tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MANY_BYTES", 10)
    recipe, text = tiny_recipe(data__path=tiny_text), MODALITIES["text"]
    settings = [f"--set=frontend.vocab_size={recipe.frontend.vocab_size}", f"--set=data.sequence_length={recipe.data.sequence_length}"]  # type: ignore[attr-defined]
    settings.append(f"--set=frontend.max_positions={recipe.frontend.max_positions}")  # type: ignore[attr-defined]
    run = RunData(RunDir(tmp_path / "run", print), recipe, text, num_ranks=17, command=["pretrain_text.py", *settings])
    with pytest.raises(ConfigError) as caught:
        run.prepare(lambda prepared: None)
    assert not (tmp_path / "run" / "prepared").exists()
    words = shlex.split(str(caught.value).split(": python launch/prepare.py ")[1].removesuffix("; then give the same command again"))
    assert run_prepare(build_parser("").parse_args(words)) == 0
    assert run.prepare(lambda prepared: None) == tmp_path / "run" / "prepared"
