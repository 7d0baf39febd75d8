"""The data sections: what the training loop reads of them."""

from dataclasses import fields

from recipes.data_config import DataConfig, SpeechDataConfig, TextDataConfig, VisionDataConfig


def loop_settings(data: DataConfig) -> tuple[str | None, int, int | None, float]:
    return data.path, data.group_size, data.num_workers, data.max_bad_fraction


def test_text_has_no_groups_no_workers_and_nothing_undecodable() -> None:
    assert loop_settings(TextDataConfig()) == (None, 1, 0, 0.0)
    assert loop_settings(TextDataConfig(path="/books")) == ("/books", 1, 0, 0.0)
    assert not {"group_size", "num_workers", "max_bad_fraction"} & {item.name for item in fields(TextDataConfig)}, "nor can they be set"


def test_other_modalities_set_what_the_loop_reads() -> None:
    assert loop_settings(SpeechDataConfig(path="/clips", group_size=4, num_workers=3, max_bad_fraction=0.5)) == ("/clips", 4, 3, 0.5)
    assert loop_settings(VisionDataConfig(path="/pictures", num_workers=3, max_bad_fraction=0.5)) == ("/pictures", 1, 3, 0.5)
    assert loop_settings(SpeechDataConfig()) == (None, 8, None, 0.01) and loop_settings(VisionDataConfig()) == (None, 1, None, 0.01)
