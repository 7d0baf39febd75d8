"""Labelled examples as micro-batches: nothing is masked, padding is marked, and an example's input does not depend on its batch."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from PIL import Image

from model.batch import Batch
from recipes.config import Recipe
from recipes.data.labelled import BATCH, Labelled
from recipes.data.media import BadItem
from recipes.data.tokenizer import BOS, EOS
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.speech import speech_tiny
from recipes.vision import vision_tiny
from tests.launching import tiny_recipe

RATE = 16_000


def open_labelled(recipe: Recipe, path: str, split: str, label_column: str, prepared: Path) -> Labelled:
    return MODALITIES[recipe.modality].open_labelled(recipe, path, split, label_column, prepared)


def batches_of(data: Labelled, indices: list[int]) -> list[Batch]:
    """The batches of data without undecodable items."""
    bad: dict[str, BadItem] = {}
    batches = list(data.batches(indices, bad))
    assert [number for numbers, _ in batches for number in numbers] == indices and not bad
    return [batch for _, batch in batches]


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


def test_clips_are_whole_and_one_per_batch(digits: Path) -> None:
    recipe = speech_tiny()
    data = open_labelled(recipe, str(digits), "train", "label", Path())
    assert data.labels == ["high"] * 3 + ["low"] * 3
    batches = batches_of(data, [0, 2])
    assert all(batch.padding_mask_BS is None and not batch.masks.mask_BS.any() and batch.masks.num_masked == 0 for batch in batches)
    assert [batch.num_tokens for batch in batches] == [recipe.frontend.num_frames(n) for n in (400, 2 * (80 + 640 * 4))]
    assert len(open_labelled(recipe, str(digits), "test", "label", Path()).labels) == 2


def test_images_are_read_as_central_views(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / name / "a.png")
    data = open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
    (batch,) = batches_of(data, [0, 1])
    assert data.labels == ["cats", "dogs"] and batch.inputs.shape == (2, 3, 64, 64) and batch.padding_mask_BS is None
    torch.testing.assert_close(batch.inputs[0], batch.inputs[1])


def test_sentences_are_tokens_after_bos_cut_to_the_recipes_length(tiny_prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba do,0\n" + "ba do ki " * 99 + ",1\n")
    recipe = tiny_recipe()
    data = open_labelled(recipe, str(tmp_path), "train", "label", tiny_prepared)
    (batch,) = batches_of(data, [0, 1])
    assert data.labels == ["0", "1"] and batch.inputs[:, 0].tolist() == [0, 0]
    assert batch.inputs.shape[1] == recipe.data.sequence_length
    assert batch.padding_mask_BS[0].any() and not batch.padding_mask_BS[1].any()
    assert batch.masks.num_masked == 0 and not batch.masks.mask_BS.any() and torch.equal(batch.inputs, batch.clean_inputs)
    (alone,) = batches_of(data, [1])
    assert not alone.padding_mask_BS.any(), "the same kernels whether or not a batch needs the mask"


def test_batches_keep_the_requested_order_and_all_its_examples(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"c{number}").mkdir()
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / f"c{number}" / "a.png")
    data = open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
    order = [2, 0, 1] * BATCH + [1, 0]
    batches = batches_of(data, order)
    assert [len(batch.inputs) for batch in batches] == [BATCH] * 3 + [2], "the last batch is smaller"
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), data.collate([data.read(number) for number in order]).inputs)


def test_text_is_read_with_the_runs_tokenizer_from_the_given_columns_to_the_recipes_length(tiny_prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nno,no\n")
    (tmp_path / "test.csv").write_text("text,label,sentence,kind\nno,no,ba do,3\nno,no," + "ba do ki " * 99 + ",4\n")
    recipe = tiny_recipe(data__text_column="sentence", frontend__max_positions=48, data__tokenizer=tmp_path / "moved.model")
    data = open_labelled(recipe, str(tmp_path), "test", "kind", tiny_prepared)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_prepared / "tokenizer.model"))
    assert data.labels == ["3", "4"]
    assert data.read(0).clean.tolist() == [BOS, *tokenizer.encode("ba do"), EOS]
    assert data.read(1).clean.tolist() == [BOS, *tokenizer.encode("ba do ki " * 99)[:31]]


@pytest.mark.parametrize("modality", ["speech", "vision"])
def test_tables_of_recordings_and_images_are_read_by_the_given_split_and_columns(modality: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    if modality == "speech":
        soundfile.write(content, np.sin(np.arange(2000)), RATE, format="wav")
    else:
        Image.new("RGB", (8, 8), (250, 0, 0)).save(content, "png")
    rows = {"audio": [b"no"], "image": [b"no"], "label": ["no"], "thing": [content.getvalue()]}
    splits = {name: datasets.Dataset.from_dict({**rows, "kind": [f"of {name}"]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    data = open_labelled(tiny_recipe(modality, data__column="thing"), str(tmp_path / "saved"), "test", "kind", Path())
    assert data.labels == ["of test"] and batches_of(data, [0])[0].num_tokens > 0


def test_clips_are_resampled_to_the_recipes_rate_and_normalised_as_in_training(digits: Path) -> None:
    data = open_labelled(tiny_recipe("speech", data__sample_rate=4000), str(digits), "test", "label", Path())
    waveform_T = data.read(1).waveform
    assert len(waveform_T) == (80 + 640) // 2, "the clips have 8 kHz"
    assert abs(waveform_T.mean()) < 1e-6 and waveform_T.std() == pytest.approx(1, abs=0.01)


def test_a_clip_shorter_than_the_receptive_field_is_padded_to_one_frame(tmp_path: Path) -> None:
    (tmp_path / "high").mkdir()
    soundfile.write(tmp_path / "high" / "a.wav", np.sin(np.arange(40)), RATE)
    recipe = speech_tiny()
    assert recipe.frontend.receptive_field > 40
    (batch,) = batches_of(open_labelled(recipe, str(tmp_path), "train", "label", Path()), [0])
    assert (batch.inputs.shape[1], batch.num_tokens) == (recipe.frontend.receptive_field, 1)


def test_items_without_a_label_have_none_and_a_list_gives_its_columns(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path()).labels == [None, None]
    (tmp_path / "list.csv").write_text("path,kind\na.png,1.0\nb.png,-1\n")
    data = open_labelled(vision_tiny(), str(tmp_path / "list.csv"), "train", "kind", Path())
    assert (data.labels, list(data.columns)) == (["1", None], ["path", "kind"])


def test_undecodable_items_are_left_out_of_their_batch_and_named_and_an_empty_batch_is_skipped(tmp_path: Path) -> None:
    for number in range(BATCH + 2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02}.png")
    for number in (1, BATCH, BATCH + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    data = open_labelled(vision_tiny(), str(tmp_path), "train", "label", Path())
    bad: dict[str, BadItem] = {}
    ((numbers, batch),) = data.batches(list(range(BATCH + 2)), bad)
    assert numbers == [0, *range(2, BATCH)] and len(batch.inputs) == BATCH - 1
    assert list(bad) == [str(tmp_path / f"{number:02}.png") for number in (1, BATCH, BATCH + 1)]
    assert bad[str(tmp_path / "01.png")].reason.startswith("not an image")


def test_a_missing_tokenizer_of_the_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba do,0\n")
    with pytest.raises(ConfigError, match=r"the run's tokenizer is not there \(tokenizer\.model or tokenizer\.json\); put the run's"):
        open_labelled(tiny_recipe(), str(tmp_path), "train", "label", tmp_path)
