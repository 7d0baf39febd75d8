"""The preparation of images refuses impossible views before it writes anything. The prepared folder is tested in test_media_folder.py."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from recipes.data.media_folder import open_prepared
from recipes.data.vision_folder import prepare_vision
from recipes.data_config import VisionDataConfig
from recipes.errors import ConfigError


def test_no_image_is_read_and_a_wrong_view_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    data = VisionDataConfig(path=str(folder), heldout_fraction=0.2)
    with pytest.raises(ConfigError, match="is not in"):
        prepare_vision(replace(data, flip_prob=2.0), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    prepared = open_prepared(prepare_vision(data, tmp_path / "prepared", num_processes=1))
    assert len(prepared.media) == 5 and prepared.bad == [] and set(prepared.lengths_N.tolist()) == {1}
