"""A network with the head of a task on DeepSpeed's ZeRO-3: parts that are never trained, and a trunk that is trained later than the head,
give the weights of plain torch in one process."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch
from model.config import EncoderConfig, HeadConfig
from tests.distributed import run_distributed
from tests.model.reference import PLAIN, VISION, plain, vision_batch
from tests.model.test_task_network import CTC, IMAGES, OUTPUTS, SPEECH, recordings
from tests.recipes.engine.test_build import NO_THRESHOLD, resolved

LENGTHS = (1000, 411, 230, 900, 300, 707, 505, 1111)
UPDATES, FROZEN_STEPS, LEARNING_RATE = 5, 2, 1e-3


def speech_loss(outputs_BNC: Tensor, batch: Batch, number: int) -> Tensor:
    """Return the sum of the CTC loss of transcripts of two letters."""
    B, N, _ = outputs_BNC.shape
    frames_B = torch.full((B,), N) if batch.padding_mask_BS is None else (~batch.padding_mask_BS).sum(1)
    log_probs_NBC, letters = outputs_BNC.log_softmax(-1).transpose(0, 1), torch.tensor([[1, 2]]).expand(B, -1)
    return F.ctc_loss(log_probs_NBC, letters, frames_B, torch.full((B,), 2), reduction="sum")


def vision_loss(outputs_BC: Tensor, batch: Batch, number: int) -> Tensor:
    """Return the sum of the cross entropy, for classes that differ in each micro-batch."""
    return F.cross_entropy(outputs_BC, (torch.arange(len(outputs_BC)) + number) % OUTPUTS, reduction="sum")


def speech_batch(number: int) -> Batch:
    """Return micro-batch `number` of an update: two recordings."""
    return recordings(LENGTHS[2 * number : 2 * number + 2])


def image_batch(number: int) -> Batch:
    """Return micro-batch `number` of an update: two images."""
    return vision_batch(torch.zeros(2, 9, dtype=torch.bool), seed=number)


def setting(modality: str) -> dict[str, Any]:
    """Return network, data and loss of a modality: CTC with a frozen extractor, or classes of images."""
    from model.frontends.speech import SpeechFrontend
    from model.frontends.vision import VisionFrontend

    if modality == "speech":
        front = {"encoder": PLAIN, "frontend": partial(SpeechFrontend, SPEECH), "head": CTC, "freezes_features": True}
        return {**front, "frozen": {"trunk.frontend.extractor.": None}, "batch": speech_batch, "loss": speech_loss}
    encoder = plain(normalize_before=True)
    front = {"encoder": encoder, "frontend": partial(VisionFrontend, VISION), "head": IMAGES, "freezes_features": False}
    return {**front, "frozen": dict.fromkeys(IMAGES.unread_parts(encoder)), "batch": image_batch, "loss": vision_loss}


def build(parallel: Any, encoder: EncoderConfig, frontend: Any, head: HeadConfig, freezes_features: bool) -> Any:
    from model.dropout import DropoutStream
    from model.init import Init
    from model.task_network import TaskNetwork

    network: Any = partial(TaskNetwork, encoder, frontend, Init(1), parallel, DropoutStream(), head=head, num_outputs=OUTPUTS)
    return network(freezes_features=freezes_features)


def compare(modality: str) -> dict[str, tuple[float, float]]:
    """Train on the engine, with two micro-batches per rank and update, and in plain torch. Return, for each parameter, the largest
    difference at the end, and how far it moved in plain torch."""
    from model.dropout import DropoutStream
    from model.parallel import Parallel, init_parallel
    from recipes.engine import shards
    from recipes.engine.build import EngineBuilder
    from recipes.engine.update import backward, set_learning_rate, step

    made = setting(modality)
    network = {name: made[name] for name in ("encoder", "frontend", "head", "freezes_features")}
    settings = ("optim.clip_norm=0", "optim.weight_decay=0.1", "optim.eps=1e-4")
    recipe, config = resolved(2, 1, NO_THRESHOLD, {"train_micro_batch_size_per_gpu": 2}, *settings)
    parallel = init_parallel(1, "cpu")
    builder = EngineBuilder(config, recipe.optim, parallel, DropoutStream())
    engine = builder.trained(partial(build, parallel, **network), made["frozen"] | {"trunk.": FROZEN_STEPS})

    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    whole = build(Parallel(alone, alone, 1, 0, 1, 0), **network)
    first = {name: p.detach().clone() for name, p in whole.named_parameters()}
    optimizer = torch.optim.AdamW(
        [p for name, p in whole.named_parameters() if not name.startswith(tuple(made["frozen"]))],
        **{"lr": LEARNING_RATE, "betas": recipe.optim.betas, "eps": recipe.optim.eps, "weight_decay": recipe.optim.weight_decay},
    )
    for update in range(UPDATES):
        trains_trunk = update >= FROZEN_STEPS
        set_learning_rate(engine, LEARNING_RATE, update)
        for number in (2 * parallel.dp_rank, 2 * parallel.dp_rank + 1):
            batch = made["batch"](number)
            backward(engine, made["loss"](engine(batch, trains_trunk), batch, number), 8, parallel.dp_size)
            step(engine)
        optimizer.zero_grad()
        for number in range(4):
            batch = made["batch"](number)
            (made["loss"](whole(batch, trains_trunk), batch, number) / 8).backward()
        optimizer.step()
    seen = {}
    for (name, parameter), expected in zip(shards.named_parameters(engine), whole.parameters(), strict=True):
        found = shards.gather_full(parameter, shards.master_shard(parameter), parallel)
        seen[name] = (float((found - expected).abs().max()), float((expected - first[name]).abs().max()))
    return seen


@pytest.mark.parametrize("modality", ["speech", "vision"])
def test_frozen_parts_and_a_trunk_that_is_frozen_at_first_give_the_weights_of_plain_torch_within_1e_5(modality: str) -> None:
    frozen = ("trunk.frontend.extractor.",) if modality == "speech" else ("trunk.encoder.final_norm.",)
    for seen in run_distributed(compare, 2, modality, timeout=120):
        assert {name: difference for name, (difference, _) in seen.items() if not difference <= 1e-5} == {}
        stayed = {name for name, (_, moved) in seen.items() if moved == 0}
        assert {name for name in seen if name.startswith(frozen)} == stayed - {"trunk.frontend.mask_vector"} and stayed
