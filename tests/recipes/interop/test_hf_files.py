"""The names are those of transformers."""

from transformers.utils import CONFIG_NAME, FEATURE_EXTRACTOR_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from recipes.interop import hf_files


def test_the_names_are_those_of_transformers() -> None:
    assert (hf_files.CONFIG, hf_files.WEIGHTS) == (CONFIG_NAME, SAFE_WEIGHTS_NAME)
    assert {hf_files.PREPROCESSOR} == {FEATURE_EXTRACTOR_NAME, IMAGE_PROCESSOR_NAME}
