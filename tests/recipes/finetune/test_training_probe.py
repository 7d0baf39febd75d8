"""The probe of a network that is trained: it scores as the probe command does, on any number of ranks, and training does not notice it."""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.batch import Batch, Masks
from recipes.errors import TrainingBroken
from recipes.finetune import cloze
from recipes.finetune.classify import classify_probe
from recipes.finetune.cloze import cloze_probe
from recipes.finetune.probe_samples import ProbeBatch, ProbePart, ProbeSamples
from recipes.finetune.ridge import fit_layer
from recipes.finetune.training_probe import TrainingProbe
from recipes.interop.trunk import find_run
from recipes.modalities.registry import MODALITIES
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.made_up import WRITE
from tests.recipes.finetune.probed_runs import PROBES, TP2, settings_of, train

CPU = torch.device("cpu")
BITS = ("text", "vision")
"""Kinds of probes whose runs are also compared with a run that is not probed."""


def score_by_the_command(checkpoint: Path, labelled: str | None, column: str) -> tuple[float, float, list[float]]:
    """Return the accuracy of the linear classifier on the checkpoint and on the random network, and all layers' of the first."""
    probed = find_run(checkpoint)
    if labelled is None:
        cloze.FIT_SAMPLES = cloze.TEST_SAMPLES = 70
        result = cloze_probe(probed, probed.prepared, CPU)
        return result.trained.accuracy, result.random.accuracy, list(result.trained.by_layer)
    found = classify_probe(probed, labelled, column, CPU)
    return found.trained["linear"].accuracy, found.random["linear"].accuracy, list(found.trained["linear"].by_layer)


def by_the_command(checkpoints: list[tuple[Path, int]], labelled: str | None, column: str) -> list[tuple[float, float, list[float]]]:
    """Return score_by_the_command() of some checkpoints: (run dir, step)."""
    return [score_by_the_command(run_dir / "checkpoints" / f"step_{step:08}", labelled, column) for run_dir, step in checkpoints]


def first_score(run_dir: Path) -> float:
    """Return the score of the weights with which a run began, from events.jsonl."""
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return next(event["probe"] for event in events if event["event"] == "probe" and event["step"] == 0)


@pytest.fixture(scope="module")
def prepared_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared text with enough held-out samples for a cloze probe."""
    folder = tmp_path_factory.mktemp("text")
    recipe = tiny_recipe(data__path=WRITE["text"](folder), data__heldout_fraction=0.2)
    return MODALITIES["text"].prepare(recipe, folder / "prepared", num_processes=1)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind != "text" else kind for kind in PROBES])
def test_a_run_is_probed_as_by_the_command_on_one_rank_and_on_two_and_learns_the_same_bits(
    kind: str, prepared_text: Path, tmp_path: Path
) -> None:
    modality = PROBES[kind][0]
    data = prepared_text if modality == "text" else WRITE[modality](tmp_path)
    settings = settings_of(kind, tmp_path / "labelled")
    probed = (None if kind == "cloze" else str(tmp_path / "labelled"), "kind" if kind == "text" else "label")

    one, two = tmp_path / "one", tmp_path / "two"
    rows = train(modality, one, data, settings)
    scores = [row.pop("probe", None) for row in rows]
    last = train(modality, two, data, settings, world_size=2)[-1]["probe"]  # of other weights, since dropout differs by rank
    ((second, fourth, other),) = run_distributed(by_the_command, 1, [(one, 2), (one, 4), (two, 4)], *probed)
    assert [first_score(one), *scores] == [second[1], None, second[0], None, fourth[0]]
    assert [first_score(two), last] == [other[1], other[0]]
    assert len({second[1], second[0], *fourth[2]}) > 1, "another network or layer would be noticed"
    if kind in BITS:
        assert rows == train(modality, tmp_path / "without", data, [*settings, "eval.probe_steps=0"])


@pytest.mark.slow
def test_two_tensor_parallel_ranks_score_what_a_run_does_that_resumes_one_rank_on_two(prepared_text: Path, tmp_path: Path) -> None:
    settings = [*settings_of("text", tmp_path / "labelled"), "model.hidden_dropout=0"]
    split = train("text", tmp_path / "split", prepared_text, settings, changes=TP2, world_size=2)
    train("text", tmp_path / "resumed", prepared_text, [*settings, "run.max_steps=2"])
    resumed = train("text", tmp_path / "resumed", prepared_text, settings, world_size=2)
    assert [row.get("probe") for row in split] == [row.get("probe") for row in resumed]
    assert [row["step"] for row in resumed if "probe" in row] == [2, 4]


class Scale(torch.nn.Module):
    """Stands for a block: multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_SBD: torch.Tensor) -> Any:
        return SimpleNamespace(block_SBD=self.factor * x_SBD)


class Network(torch.nn.Module):
    """Stands for an engine and its module: two blocks, a prefix of one position, no weights."""

    def __init__(self, factors: tuple[float, float]) -> None:
        super().__init__()
        self.trunk: Any = torch.nn.Module()
        self.trunk.encoder, self.trunk.frontend = torch.nn.Module(), SimpleNamespace(num_prefix_tokens=1)
        self.trunk.encoder.layers = torch.nn.ModuleList(map(Scale, factors))
        self.device, self.modes, self.__dict__["module"] = "cpu", list[bool](), self

    def forward(self, batch: Batch) -> None:
        self.modes.append(self.training)
        x_SBD = batch.inputs.transpose(0, 1)
        for block in self.trunk.encoder.layers:
            x_SBD = block(x_SBD).block_SBD


def samples(rank: int = 0) -> ProbeSamples:
    """On rank 0 one batch of ten samples (3 positions, 2 channels) to fit on and to test on, of which the last two positions give the
    class. One other round is run for the other ranks."""
    labels_N = torch.tensor([0, 1] * 5)
    inputs = torch.full((10, 3, 2), 100.0)
    inputs[:, 1:, 0] = labels_N[:, None].float()
    inputs[:, 1:, 1] = 0.0
    mask = torch.zeros(10, 2, dtype=torch.bool)
    batch = Batch(inputs, inputs, Masks.of(mask), None, None, 20)
    part = ProbePart((ProbeBatch(0, batch, labels_N),) if rank == 0 else (), 2, batch, labels_N)
    return ProbeSamples(part, part, partial(fit_layer, num_classes=2), SimpleNamespace(tp_rank=0))  # type: ignore[arg-type]


def probe_of_a_small_network() -> tuple:
    from recipes.cluster.world import join_world

    probe, network, beats = TrainingProbe(samples(), join_world()), Network((1.0, 2.0)), list[int]()
    network.train()
    score = probe.run(network, beats.append)  # type: ignore[arg-type]
    with pytest.raises(TrainingBroken) as caught:
        probe.run(Network((1.0, float("nan"))), beats.append)  # type: ignore[arg-type]
    hooks = [len(block._forward_hooks) for block in network.trunk.encoder.layers]
    return score, network.modes, network.training, beats[: len(beats) // 2], hooks, str(caught.value)


def layers_that_are_fitted_together() -> list[int]:
    """Return the layer that this rank fits, after the other rank has begun to fit its own."""
    from recipes.cluster.world import join_world

    class Waiting(TrainingProbe):
        def _fit(self, fit_ND: torch.Tensor, test_ND: torch.Tensor) -> Any:
            dist.barrier(group=fitting)
            fitted.append(int(fit_ND.max()))
            return super()._fit(fit_ND, test_ND)

    fitting, fitted = dist.new_group(timeout=timedelta(seconds=5)), list[int]()
    Waiting(samples(dist.get_rank()), join_world()).run(Network((1.0, 2.0)), lambda number: None)  # type: ignore[arg-type]
    return fitted


def test_two_ranks_fit_two_layers_at_the_same_time() -> None:
    assert run_distributed(layers_that_are_fitted_together, 2) == [[1], [2]]


def test_prefix_tokens_are_left_out_the_mode_is_restored_and_a_diverged_network_ends_the_run() -> None:
    ((score, modes, is_training, beats, hooks, error),) = run_distributed(probe_of_a_small_network, 1)
    assert score == {"probe": 1.0}
    assert modes == [False] * 4 and is_training and hooks == [0, 0]
    assert beats == [0, 1, 2, 3, 4, 5], "each round of fit and test, then each layer"
    assert error.startswith("the probe's features of layer 2 are not finite")
