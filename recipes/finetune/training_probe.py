"""A probe of the student on its engine, between two updates. Every rank runs its share of the batches; then the ranks fit the layers, each
rank some of them at the same time as the others. The features are those of the probe command, in the precision in which the run computes.
The score is that of its linear classifier.

Shapes: B batch, S sequence, D features, N examples or blanks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.layers import LayerOutput
from recipes.cluster.world import World
from recipes.engine.build import Engine
from recipes.errors import TrainingBroken
from recipes.finetune.probe_samples import ProbePart, ProbeSamples
from recipes.train.probe import METRIC

Beat = Callable[[int], Any]
Shares = list[dict[int, Tensor]]
"""For each layer the features that this rank has: number of the batch -> (N, D)."""


class TrainingProbe:
    """Scores a network by ridge regression on its frozen features, on samples that are in memory. Implements Probe."""

    def __init__(self, samples: ProbeSamples, world: World) -> None:
        self._samples, self._world = samples, world

    @torch.no_grad()
    def run(self, student: Engine, beat: Beat) -> dict[str, float]:
        """Return {"probe": score on the test samples}, an accuracy or an explained variance, for the layer that is best on validation data.
        A collective. The module of `student` reads a Batch and has a trunk. It is in training mode afterwards. `beat` is called with the
        number of each batch and, after them, of each layer.

        Raises: TrainingBroken if features are not finite.
        """
        samples, device = self._samples, torch.device(student.device)
        student.eval()
        fit = _features(student, samples.fit, device, beat)
        test = _features(student, samples.test, device, lambda number: beat(samples.fit.num_rounds + number))
        student.train()
        results = self._fit_all(fit, test, beat)
        if broken := [layer + 1 for layer, result in sorted(results.items()) if result is None]:
            raise TrainingBroken(f"the probe's features of layer {broken[0]} are not finite; look at loss and grad_norm in metrics.jsonl")
        best = max(results, key=lambda layer: (results[layer][0][0], layer))  # in a tie the last one, as best_layer()
        return {METRIC: results[best][1]}

    def _fit_all(self, fit: Shares, test: Shares, beat: Beat) -> dict[int, Any]:
        """Return what _fit() does for each layer. As many layers as there are ranks are gathered, one on each, and then fitted: a rank that
        fitted before it takes part in gathering the next layer would keep all others waiting."""
        done, size, found = self._samples.fit.num_rounds + self._samples.test.num_rounds, self._world.size, dict[int, Any]()
        for first in range(0, len(fit), size):
            own = dict[int, tuple[Tensor, Tensor]]()
            for layer in range(first, min(first + size, len(fit))):
                beat(done + layer)
                fit_ND, test_ND = (self._gather(shares[layer], layer - first) for shares in (fit, test))
                if fit_ND is not None and test_ND is not None:
                    own[layer] = fit_ND, test_ND
            found |= {layer: self._fit(*both) for layer, both in own.items()}
        return {layer: result for rank in self._world.gather(found) for layer, result in rank.items()}

    def _fit(self, fit_ND: Tensor, test_ND: Tensor) -> tuple[tuple[float, float], float] | None:
        """Return what the samples' fit_layer does; None if a feature is not finite."""
        if not (fit_ND.isfinite().all() and test_ND.isfinite().all()):
            return None
        samples = self._samples
        return samples.fit_layer((fit_ND, samples.fit.labels_N), (test_ND, samples.test.labels_N))

    def _gather(self, share: dict[int, Tensor], owner: int) -> Tensor | None:
        """Return the features of all ranks on rank `owner`, in the order of the batches; None on the others. A collective."""
        here = self._world.rank == owner
        shares: list[Any] | None = [None] * self._world.size if here else None
        own = share if self._samples.parallel.tp_rank == 0 else {}
        dist.gather_object(own, shares, dst=owner, group=self._world.control)
        if shares is None:
            return None
        found = {number: features_ND for one in shares for number, features_ND in one.items()}
        return torch.cat([found[number] for number in sorted(found)])


def _features(student: Engine, part: ProbePart, device: torch.device, beat: Beat) -> Shares:
    """Run this rank's batches, and as many others as it takes for all ranks to run equally many. Return the features of its own."""
    shares: Shares = [{} for _ in student.module.trunk.encoder.layers]
    for number in range(part.num_rounds):
        beat(number)
        one = part.own[number] if number < len(part.own) else None
        batch = (one.batch if one else part.filler).to(device).finished()
        with _outputs(student.module.trunk) as layers:
            student(batch)
        if one:
            for share, x_SBD in zip(shares, layers, strict=True):
                share[one.number] = one.features(x_SBD.transpose(0, 1), batch)
    return shares


@contextmanager
def _outputs(trunk: Any) -> Iterator[list[Tensor]]:
    """Yield a list that gets the output (S, B, D) of each block of the trunk while its network runs, without prefix tokens such as CLS.

    The whole network runs on its engine, as in training, since ZeRO-3 gathers weights in the order in which it has seen modules run.
    """
    found, prefix = list[Tensor](), trunk.frontend.num_prefix_tokens

    def keep(module: nn.Module, inputs: tuple, output: LayerOutput) -> None:
        found.append(output.block_SBD[prefix:])

    hooks = [block.register_forward_hook(keep) for block in trunk.encoder.layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
