"""The samples of a probe: what each rank reads, how many of them, and data that are refused before training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.errors import ConfigError
from recipes.finetune.probe_samples import ProbeSamples, open_classify, open_cloze
from recipes.train.probe import ProbePlace
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.recipes.finetune.pictures import write_images
from tests.recipes.finetune.probed_runs import write_voices
from tests.recipes.finetune.sentences import TEST, TRAIN, write_sentences

SENTENCES = {"data__text_column": "sentence", "eval__probe_label_column": "kind"}


@dataclass(frozen=True)
class Share:
    """What one rank has of the samples that are fitted or tested on."""

    numbers: list[int]
    labels: list[int]
    all_labels: list[int]
    num_rounds: int
    filler_size: int


def opened(modality: str, settings: dict[str, Any], prepared: Path, run_dir: Path, size: int) -> tuple[Share, Share, int] | str:
    """Open the samples on one of `size` ranks. Return (those fitted, those tested on, number of classes), or the error."""
    from model.parallel import init_parallel
    from recipes.cluster.world import join_world

    recipe, world = tiny_recipe(modality, **settings), join_world()
    place = ProbePlace(world, init_parallel(1, "cpu"), prepared, run_dir)
    try:
        samples = (open_classify if recipe.eval.probe_data and recipe.eval.probe_task != "cloze" else open_cloze)(recipe, place)
    except ConfigError as error:
        return str(error)
    return (*(share_of(samples, name) for name in ("fit", "test")), samples.fit_layer.keywords["num_classes"])  # type: ignore[attr-defined, return-value]


def share_of(samples: ProbeSamples, name: str) -> Share:
    part = getattr(samples, name)
    labels = [label for one in part.own for label in one.labels_N.tolist()]
    return Share([one.number for one in part.own], labels, part.labels_N.tolist(), part.num_rounds, len(part.filler.inputs))


def all_opened(modality: str, ranks: int, tmp_path: Path, prepared: Path = Path(), **settings: Any) -> list:
    return run_distributed(opened, ranks, modality, settings, prepared, tmp_path / "run", ranks)


def test_whole_batches_are_dealt_out_and_all_ranks_have_the_labels_of_all_in_one_order(tiny_prepared: Path, tmp_path: Path) -> None:
    settings = SENTENCES | {"eval__probe_data": write_sentences(tmp_path)}
    ((fit, test, num_classes),) = all_opened("text", 1, tmp_path, tiny_prepared, **settings)
    assert (len(fit.labels), len(test.labels), num_classes) == (sum(TRAIN.values()), sum(TEST.values()) - TEST["new"], 3)
    assert fit.numbers == [0, 1, 2, 3] and fit.all_labels == fit.labels
    shares = all_opened("text", 3, tmp_path, tiny_prepared, **settings)
    assert [one[0].numbers for one in shares] == [[0, 3], [1], [2]] and [one[0].num_rounds for one in shares] == [2] * 3
    assert [one[1].numbers for one in shares] == [[0], [1], []] and [one[1].num_rounds for one in shares] == [1] * 3
    assert all(one[part].all_labels == (fit, test)[part].labels for one in shares for part in (0, 1))
    assert shares[1][0].labels == fit.labels[32:64]
    assert shares[2][1].labels == [] and shares[2][1].filler_size == 32, "a rank without samples runs those of another one"


def test_the_number_of_samples_is_bounded_and_test_samples_are_of_all_classes(tiny_prepared: Path, tmp_path: Path) -> None:
    settings = SENTENCES | {"eval__probe_data": write_sentences(tmp_path), "eval__probe_samples": 20}
    ((fit, test, _),) = all_opened("text", 1, tmp_path, tiny_prepared, **settings)
    assert (len(fit.labels), len(test.labels)) == (20, 20)
    assert set(test.labels) == {0, 1, 2}, "they are sorted by class, so the first ones would be of two"


def test_examples_that_cannot_be_decoded_are_left_out_on_the_rank_that_reads_them(tmp_path: Path) -> None:
    folder = write_voices(tmp_path)
    for number in (2, 4):
        (folder / "low" / f"{number}.wav").write_text("not a recording")
    shares = all_opened("speech", 2, tmp_path, eval__probe_data=folder)
    whole = [sum(len(one[part].labels) for one in shares) for part in (0, 1)]
    assert sum(whole) == 21 and [len(one[part].all_labels) for one in shares for part in (0, 1)] == [*whole, *whole]
    assert all(one[part].num_rounds == max(len(other[part].numbers) for other in shares) for one in shares for part in (0, 1))
    for number in range(23):
        (folder / ("low", "high")[number % 2] / f"{number}.wav").write_text("not a recording")
    (error,) = all_opened("speech", 1, tmp_path, eval__probe_data=folder)
    assert "examples cannot be decoded, more than the" in error


def test_labels_that_are_missing_or_all_the_same_are_one_line_on_every_rank(tiny_prepared: Path, tmp_path: Path) -> None:
    settings = SENTENCES | {"eval__probe_data": write_sentences(tmp_path)}
    first, second = all_opened("text", 2, tmp_path, tiny_prepared, **settings | {"eval__probe_label_column": "lost"})
    assert first == second and "column 'lost'" in first and "--set eval.probe_label_column=NAME" in first
    one_class = tmp_path / "one"
    write_images(one_class, classes=("blue", "blue"))
    (error,) = all_opened("vision", 1, tmp_path, eval__probe_data=one_class)
    assert error.endswith("the data have one class only, 'blue'; give data with two or more")
    few = tmp_path / "few"
    write_images(few, 2)
    (error,) = all_opened("vision", 1, tmp_path, eval__probe_data=few)
    assert error.endswith("are too few; give more labelled data")


def test_cloze_reads_the_text_of_the_run_or_another_one_and_needs_held_out_samples(
    tiny_text: Path, tiny_prepared: Path, tmp_path: Path
) -> None:
    other = {"eval__probe_task": "cloze", "eval__probe_data": tiny_text, "data__heldout_fraction": 0.3, "eval__probe_samples": 70}
    shares = all_opened("text", 2, tmp_path, tiny_prepared, **other)
    assert [one[0].numbers for one in shares] == [[0, 2], [1]] and shares[0][2] == shares[1][2] > 2
    assert len(shares[0][1].all_labels) >= 20
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "run" / "probe").iterdir()] == ["book.txt"]
    (error,) = all_opened("text", 1, tmp_path / "none", tiny_prepared, **other | {"data__heldout_fraction": 0})
    assert error.startswith("the cloze probe is tested on held-out text, and there is none")


def features_of_parts() -> list[list[float]]:
    from recipes.finetune.probe_samples import ProbeBatch
    from tests.recipes.finetune.test_training_probe import samples

    batch = samples().fit.own[0].batch
    x_BSD = torch.arange(12.0).view(2, 3, 2)
    mean = ProbeBatch(0, batch, torch.zeros(2)).features(x_BSD, batch)
    chosen = ProbeBatch(0, batch, torch.zeros(2), torch.tensor([1, 5])).features(x_BSD, batch)
    return [mean.flatten().tolist(), chosen.flatten().tolist()]


def test_features_are_the_mean_of_a_sample_or_the_outputs_at_the_chosen_positions() -> None:
    assert features_of_parts() == [[2.0, 3.0, 8.0, 9.0], [2.0, 3.0, 10.0, 11.0]]
