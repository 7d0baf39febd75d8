"""What a dry run reports about the data, before anything is prepared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from model.frontends.config import TextFrontendConfig
from recipes.check import check_data
from recipes.config import Recipe
from recipes.data.speech_folder import prepare_speech
from recipes.data.vision_folder import prepare_vision
from recipes.errors import ConfigError
from recipes.speech import speech_tiny
from recipes.text import text_tiny
from recipes.vision import vision_tiny
from tests.launching import tiny_recipe


def on(recipe: Recipe, path: Path | str | None) -> Recipe:
    return replace(recipe, data=replace(recipe.data, path=None if path is None else str(path)))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", np.sin(np.arange(40_000) / (9 + number)), 16_000)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("build", [text_tiny, speech_tiny, vision_tiny])
def test_the_sample_needs_no_check_and_a_hub_name_is_reported_as_one(build) -> None:
    assert check_data(on(build(), None)) == ""
    assert check_data(on(build(), "mr/tarin")) == "no such file or folder; mr/tarin will be looked up on the Hugging Face hub"


@pytest.mark.parametrize("build", [text_tiny, speech_tiny, vision_tiny])
def test_an_empty_folder_and_a_missing_path_are_refused(build, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no .* in it, found nothing"):
        check_data(on(build(), tmp_path / "empty"))
    with pytest.raises(ConfigError, match="no such file or folder"):
        check_data(on(build(), tmp_path / "nowhere"))


def test_data_of_another_modality_are_refused(clips: Path, pictures: Path) -> None:
    check_data(on(speech_tiny(), clips))
    check_data(on(vision_tiny(), pictures))
    with pytest.raises(ConfigError, match=r"no audio in it, found 4 \.png"):
        check_data(on(speech_tiny(), pictures))
    with pytest.raises(ConfigError, match=r"no image in it, found 4 \.wav"):
        check_data(on(vision_tiny(), clips))


def test_the_recipes_column_is_looked_for(clips: Path, pictures: Path) -> None:
    for build, folder, suffix in ((speech_tiny, clips, "wav"), (vision_tiny, pictures, "png")):
        (folder / "list.csv").write_text(f"number,place\n0,0.{suffix}\n")
        recipe = on(build(), folder / "list.csv")
        check_data(replace(recipe, data=replace(recipe.data, column="place")))  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match=r"no column '\w+', there are number, place; --set data\.column=NAME"):
            check_data(recipe)


def test_a_prepared_text_must_fit_the_recipe(tiny_prepared: Path) -> None:
    recipe = tiny_recipe(data__path=tiny_prepared)
    check_data(recipe)
    with pytest.raises(ConfigError, match=r"prepared with frontend\.vocab_size 200, the recipe has 80"):
        check_data(replace(recipe, frontend=TextFrontendConfig(vocab_size=80)))


def test_a_path_that_begins_with_a_dot_is_not_a_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: pytest.fail("the hub was asked"))
    for build in (text_tiny, speech_tiny, vision_tiny):
        with pytest.raises(ConfigError, match=r"^--data \./nowhere: no such file or folder$"):
            check_data(on(build(), "./nowhere"))


def test_a_prepared_folder_must_fit_the_recipe(clips: Path, pictures: Path, tmp_path: Path) -> None:
    speech, vision = on(speech_tiny(), clips), on(vision_tiny(), pictures)
    prepare_speech(speech.data, speech.frontend, tmp_path / "speech")  # type: ignore[arg-type]
    prepare_vision(vision.data, tmp_path / "vision")  # type: ignore[arg-type]
    check_data(on(speech, tmp_path / "speech"))
    check_data(on(vision, tmp_path / "vision"))
    with pytest.raises(ConfigError, match=r"prepared with data\.min_seconds 2\.0, the recipe has 1\.0"):
        check_data(on(replace(speech, data=replace(speech.data, min_seconds=1.0)), tmp_path / "speech"))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="prepared from audio data, not from image"):
        check_data(on(vision, tmp_path / "speech"))


@pytest.mark.parametrize("build", [text_tiny, speech_tiny, vision_tiny])
def test_left_out_files_are_reported_and_an_unclear_split_is_refused(build, tmp_path: Path) -> None:
    suffix = {"text": "txt", "speech": "wav", "vision": "png"}[build().modality]
    for name in ("train", "test", "train/dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a.{suffix}").touch()
    note = f"train: 2 files (2 .{suffix}) of train; left out: 1 of test"
    assert check_data(on(build(), tmp_path)) == note
    (tmp_path / f"b.{suffix}").touch()
    with pytest.raises(ConfigError, match=r"its names do not say which part is training data"):
        check_data(on(build(), tmp_path))
    recipe = on(build(), tmp_path)
    recipe = replace(recipe, data=replace(recipe.data, split="train"))  # type: ignore[call-arg]
    assert check_data(recipe) == f"train: 2 files (2 .{suffix}) of train; left out: 1 in no sub-folder, 1 of test"
