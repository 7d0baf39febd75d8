"""Labelled examples as micro-batches: nothing masked, padding known, and the same features-to-be however they are batched."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from recipes.errors import ConfigError
from recipes.finetune.labelled import BATCH, open_labelled
from recipes.speech import speech_tiny
from recipes.vision import vision_tiny
from tests.launching import tiny_recipe

RATE = 16_000


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Clips of 0.01 to 0.4 s at 8 kHz, two classes, two splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for number in range(count):
            path = tmp_path / split / ("high", "low")[number % 2] / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.standard_normal(80 + 640 * number) * 0.1, RATE // 2)
    return tmp_path


def test_clips_come_whole_and_one_by_one(digits: Path) -> None:
    recipe = speech_tiny()
    data = open_labelled(recipe, str(digits), "train", "label", Path())
    assert data.labels == ["high"] * 3 + ["low"] * 3
    batches = list(data.batches([0, 2]))
    assert all(batch.padding_mask_BS is None and not batch.mask_BS.any() and batch.num_masked == 0 for batch in batches)
    assert [batch.num_tokens for batch in batches] == [recipe.frontend.num_frames(n) for n in (400, 2 * (80 + 640 * 4))]
    assert len(open_labelled(recipe, str(digits), "test", "label", Path()).labels) == 2


def test_images_are_seen_in_the_central_view(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / name / "a.png")
    data = open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
    (batch,) = data.batches([0, 1])
    assert data.labels == ["cats", "dogs"] and batch.inputs.shape == (2, 3, 64, 64) and batch.padding_mask_BS is None
    torch.testing.assert_close(batch.inputs[0], batch.inputs[1])


def test_sentences_are_tokens_behind_bos_cut_at_the_recipes_length(tiny_prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba do,0\n" + "ba do ki " * 99 + ",1\n")
    recipe = tiny_recipe()
    data = open_labelled(recipe, str(tmp_path), "train", "label", tiny_prepared)
    (batch,) = data.batches([0, 1])
    assert data.labels == ["0", "1"] and batch.inputs[:, 0].tolist() == [0, 0]
    assert batch.inputs.shape[1] == recipe.data.sequence_length
    assert batch.padding_mask_BS[0].any() and not batch.padding_mask_BS[1].any()


def test_batches_keep_the_order_asked_for_and_its_size(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"c{number}").mkdir()
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / f"c{number}" / "a.png")
    data = open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
    order = [2, 0, 1] * BATCH
    batches = list(data.batches(order))
    assert [len(batch.inputs) for batch in batches] == [BATCH] * 3
    assert torch.equal(batches[0].inputs[1], data.collate([data.read(0)]).inputs[0])


def test_data_without_labels_say_so(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    with pytest.raises(ConfigError, match="1 of 1 items have no label; give data with one folder per class"):
        open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
