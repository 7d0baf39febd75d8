"""Each Hugging Face format of data2vec is found by its model_type and by its modality."""

import pytest

from recipes.catalog import RECIPES
from recipes.errors import ConfigError
from recipes.interop.hf_format import FORMATS, format_of_config, format_of_modality


def test_every_modality_has_one_format_whose_template_is_its_base() -> None:
    assert {one.modality for one in FORMATS.values()} == RECIPES.keys()
    for model_type, one in FORMATS.items():
        assert format_of_config({"model_type": model_type}, "--from x") is one
        assert format_of_modality(one.modality) == (model_type, one)
        assert one.template().name == f"{one.modality}_base" and one.prefix == f"{model_type.replace('-', '_')}."


def test_another_model_type_or_modality_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^--from x: its config\.json has model_type 'bert'; name a directory of data2vec-text, "):
        format_of_config({"model_type": "bert"}, "--from x")
    with pytest.raises(ConfigError, match="^modality smell: transformers has no data2vec class for it, only for text, speech, vision"):
        format_of_modality("smell")
