"""Prepares images. media_folder.py writes the prepared folder. Does not import torch."""

from collections.abc import Callable
from pathlib import Path

from recipes.data.contents import ResumedRun
from recipes.data.images import IMAGES, check_views
from recipes.data.media_folder import prepare_media
from recipes.data_config import VisionDataConfig


def prepare_vision(
    data: VisionDataConfig,
    out_dir: Path,
    *,
    num_processes: int | None = None,
    progress: bool = False,
    log: Callable[[str], None] = lambda line: None,
    run: ResumedRun | None = None,
) -> Path:
    """Return the prepared folder for `data`: the one that data.path names, an earlier one at out_dir, or a new one at out_dir. No picture
    is decoded: undecodable pictures are found in training.

    Raises: ConfigError for everything that the user can fix (see prepare_media).
    """
    check_views(data)
    return prepare_media(data, IMAGES, out_dir, scan=None, settings={}, num_processes=num_processes, progress=progress, log=log, run=run)
