"""The image data set with views that the device makes, and with draft decoding."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from recipes.data.vision_folder import prepare_vision
from tests.recipes.data.test_vision import ALL, DATA, colours, encoded, make_dataset, open_dataset, write_images


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, prepared."""
    folder = write_images(tmp_path_factory.mktemp("vision") / "images")
    return prepare_vision(replace(DATA, path=str(folder)), folder.parent / "prepared", num_processes=1)


def test_views_of_the_device_are_those_of_the_workers_within_1_of_255(prepared: Path) -> None:
    dataset, other = open_dataset(prepared), open_dataset(prepared, data=replace(DATA, views_on="device"))
    batches = [each.collate([each.example(3, index, ALL) for index in range(6)]) for each in (dataset, other)]
    assert batches[1].unfinished is not None and batches[1].inputs.shape == (6 * 60 * 48, 3)
    finished = pickle.loads(pickle.dumps(batches[1])).finished()
    assert finished.unfinished is None and finished.inputs is finished.clean_inputs
    assert (finished.inputs.int() - batches[0].inputs.int()).abs().max() <= 1
    assert torch.equal(finished.masks.mask_BS, batches[0].masks.mask_BS) and finished.num_tokens == batches[0].num_tokens
    heldout = open_dataset(prepared, "valid", data=replace(DATA, views_on="device"))
    assert heldout.example(0, 0, ALL).view is None and heldout.collate([heldout.example(0, 0, ALL)]).unfinished is None


@pytest.mark.parametrize("views_on", ["workers", "device"])
def test_draft_decoding_changes_views_of_large_photographs_a_little(tmp_path: Path, views_on: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(colours(number).resize((600, 480), Image.Resampling.BICUBIC), "JPEG"))
    whole = make_dataset(folder)
    draft = open_dataset(whole._prepared.folder, data=replace(whole._data, draft_decoding=True, views_on=views_on))
    for index in range(3):
        one, other = (each.collate([each.example(0, index, ALL)]).finished().inputs.int() for each in (whole, draft))
        assert 0 < (one - other).abs().float().mean() < 2
