"""Starts that cannot work are refused on every rank, before anything is trained."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.ds_config import load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from tests.distributed import run_distributed
from tests.launching import ROOT
from tests.recipes.train.faulty import DP2, prepare_pictures, recipe_of

LAUNCH_INFO = {"python": "3.11", "versions": {"torch": "2"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up pictures, two of them held out."""
    return prepare_pictures(tmp_path_factory.mktemp("pictures"))


def pretrain(run_dir: Path, prepared: Path, settings: dict[str, object], launch_info: dict[str, Any]) -> int:
    """Run one of the two ranks of a whole run."""
    from recipes.train import loop

    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | DP2.config
    recipe = recipe_of(prepared, settings)
    return loop.run(recipe, resolve(recipe, content, "test", 2), run_dir, launch_info)


def refused(what: str, folder: Path, prepared: Path) -> str:
    """Return the error of this rank after a start in which rank 1 differs from rank 0."""
    import torch.distributed as dist

    from recipes.cluster import world_check
    from recipes.train import waiting

    if what == "run dir":
        world_check.APPEARS_SECONDS = 0.3
    is_odd, settings, launch_info, run_dir = dist.get_rank() == 1, {}, LAUNCH_INFO, folder / "run"
    if what == "versions" and is_odd:
        launch_info = LAUNCH_INFO | {"versions": {"torch": "1"}}
    if what == "run dir" and is_odd:
        run_dir = folder / "elsewhere"
        run_dir.mkdir()
    if what == "data" and is_odd:
        vision: Any = MODALITIES["vision"]
        vision.open_data = _with_fingerprint(vision.open_data)
    if what == "large data":
        waiting.MANY_RANKS, waiting.MANY_FILES, prepared = 1, 3, prepared.parent / "pictures"
        launch_info = LAUNCH_INFO | {"command": ["pretrain_vision.py", "--set", "run.seed=1"]}
    try:
        pretrain(run_dir, prepared, settings, launch_info)
    except ConfigError as error:
        return str(error)
    return "trained"


def _with_fingerprint(open_data: Callable[..., Any]) -> Callable[..., Any]:
    def opened(*args: Any) -> Any:
        train, heldout = open_data(*args)
        train.fingerprint = "of other data"
        return train, heldout

    return opened


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("versions", r"torch is 1, on .* it is 2; make them the same"),
        ("run dir", r"do not see what .* wrote there; put it on a file system that all nodes share"),
        ("data", r"the data's fingerprint is of other data, on"),
        ("large data", r"more than 3 files, and 2 ranks would wait for it; run launch/prepare\.py first: .* --set run\.seed=1; then"),
    ],
)
def test_a_start_that_cannot_work_is_refused_on_every_rank_before_anything_is_trained(
    what: str, said: str, prepared: Path, tmp_path: Path
) -> None:
    answers = run_distributed(refused, 2, what, tmp_path, prepared)
    assert all(re.search(said, answer) for answer in answers), answers
    assert not (tmp_path / "run" / "config.json").exists()
