"""The sections of labelled data: bounds, and the size of groups."""

import pytest

from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledSpeechDataConfig, LabelledTextDataConfig, LabelledVisionDataConfig
from tests.recipes.data.labelled_texts import recipe_of


def test_the_kinds_are_the_names_in_config_json() -> None:
    kinds = [one.kind for one in (LabelledTextDataConfig, LabelledSpeechDataConfig, LabelledVisionDataConfig)]
    assert kinds == ["labelled_text", "labelled_speech", "labelled_vision"]


@pytest.mark.parametrize(
    "setting",
    ["data.heldout_fraction=1", "data.max_train_samples=-1", "data.sequence_length=3", "data.max_bad_fraction=2", "data.glue_task=wnli"],
)
def test_values_out_of_bounds_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        check_recipe(recipe_of("words", setting))


def test_images_come_in_pairs_only_if_they_are_mixed() -> None:
    assert [LabelledVisionDataConfig(mixup_alpha=a, cutmix_alpha=b).group_size for a, b in ((0, 0), (0.8, 0), (0, 1))] == [1, 2, 2]
    assert LabelledTextDataConfig().group_size == 1
