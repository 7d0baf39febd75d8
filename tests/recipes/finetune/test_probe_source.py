"""Which probe the settings mean, and which of them are refused before anything is built."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune.probe_source import FrozenFeatures, task_of
from tests.launching import tiny_recipe

SOURCE = FrozenFeatures()


def test_without_probe_steps_there_is_no_probe_whatever_the_other_settings_are() -> None:
    assert SOURCE.check(tiny_recipe("speech", eval__probe_task="cloze", eval__probe_data="/lost")) == ""


def test_labelled_data_mean_classify_and_text_without_data_means_cloze(tmp_path: Path) -> None:
    assert SOURCE.check(tiny_recipe(eval__probe_steps=7)) == "cloze on the held-out data of the run, every 7 updates"
    recipe = tiny_recipe("vision", eval__probe_steps=7, eval__probe_data=tmp_path)
    assert SOURCE.check(recipe) == f"classify on {tmp_path}, every 7 updates"
    assert task_of(tiny_recipe(eval__probe_task="cloze", eval__probe_data=tmp_path)) == "cloze"
    assert SOURCE.check(tiny_recipe(eval__probe_steps=7, eval__probe_data="owner/name")).startswith("classify on owner/name"), "of the hub"


@pytest.mark.parametrize(
    ("modality", "settings", "complaint"),
    [
        ("text", {"probe_task": "classify"}, "eval.probe_task classify needs labelled data; name it with --set eval.probe_data"),
        ("speech", {}, "eval.probe_steps 7: a probe of speech needs labelled data; name it with --set eval.probe_data"),
        ("vision", {"probe_task": "cloze"}, "eval.probe_task cloze is not for vision; use classify or reference"),
        ("vision", {"probe_data": "/lost"}, "eval.probe_data /lost: no such file or folder; correct --set eval.probe_data"),
        (
            "speech",
            {"probe_task": "reference"},
            "eval.probe_task reference needs a run whose teacher is the reference; name it with --set eval.probe_reference",
        ),
        (
            "text",
            {"probe_task": "reference", "probe_reference": "/lost"},
            "eval.probe_reference /lost: no such folder; name a run dir or a checkpoint folder",
        ),
        ("text", {"probe_data": "./lost"}, "eval.probe_data ./lost: no such file or folder; correct --set eval.probe_data"),
    ],
)
def test_settings_without_a_meaning_are_one_line(modality: str, settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SOURCE.check(tiny_recipe(modality, eval__probe_steps=7, **{f"eval__{name}": value for name, value in settings.items()}))
    assert str(caught.value) == complaint
