"""The network of a task: what its head reads, its initial values, parts without gradient, padded batches, and tensor parallelism."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch, Masks
from model.config import EncoderConfig, HeadConfig
from model.dropout import DropoutStream
from model.frontends.speech import SpeechFrontend
from model.frontends.speech_config import SpeechFrontendConfig
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.parallel import Parallel, init_parallel
from model.task_heads import mean_over_positions
from model.task_network import TaskNetwork
from model.trunk import FrontendBuilder
from tests.distributed import run_distributed
from tests.model.reference import PLAIN, VISION, bools, build_student, make_batch, plain, stir, text_frontend, vision_batch

OUTPUTS = 4
SPEECH = SpeechFrontendConfig(
    conv_dim=8, conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), pos_conv_depth=2, pos_conv_kernel=5, pos_conv_groups=4, exact_padding=True
)
SAMPLES = (1000, 411, 230)
NOTHING = bools("0000", "0000")
IDS_BS = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
TEXTS = make_batch(IDS_BS, NOTHING, bools("0000", "0001"))
ROBERTA, IMAGES = HeadConfig(), HeadConfig(reads="mean", hidden="none", norm=True)
CTC = HeadConfig(reads="positions", hidden="none")


def build(
    parallel: Parallel,
    head: HeadConfig = ROBERTA,
    encoder: EncoderConfig = PLAIN,
    frontend: FrontendBuilder | None = None,
    **settings: Any,
) -> TaskNetwork:
    stream = DropoutStream(1, parallel.dp_rank, parallel.tp_rank)
    return TaskNetwork(encoder, frontend or text_frontend(), Init(1), parallel, stream, head=head, num_outputs=OUTPUTS, **settings)


def recordings(lengths: tuple[int, ...] = SAMPLES, channel_mask_BD: Tensor | None = None) -> Batch:
    """Return random recordings of these numbers of samples, padded with zeros; the first ones are always the same."""
    frames = torch.tensor([SPEECH.num_frames(length) for length in lengths])
    padding_BS = torch.arange(int(frames.max())) >= frames[:, None]
    waves_BT = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        waves_BT[row, :length] = torch.randn(length, generator=torch.Generator().manual_seed(length))
    mask_BS = torch.zeros_like(padding_BS)
    padding = padding_BS if padding_BS.any() else None
    masks = Masks(mask_BS, Masks.of(mask_BS).masked_index_M, channel_mask_BD)
    return Batch(waves_BT, waves_BT, masks, padding, padding, int(frames.sum()))


def without_gradient(network: TaskNetwork) -> set[str]:
    return {name for name, p in network.named_parameters() if p.grad is None}


def names_in(network: TaskNetwork, *prefixes: str) -> set[str]:
    return {name for name, _ in network.named_parameters() if name.startswith(prefixes)}


def test_the_head_reads_the_first_token_the_mean_or_every_position(parallel: Parallel) -> None:
    for reads in ("cls", "mean", "positions"):
        network = build(parallel, HeadConfig(reads=reads))  # type: ignore[arg-type]
        stir(network)
        x_BND = network.trunk(TEXTS.inputs, None, TEXTS.padding_mask_BS, keep_from=2).x_BND
        read = {"cls": x_BND[:, 0], "mean": mean_over_positions(x_BND, TEXTS.padding_mask_BS), "positions": x_BND}[reads]
        torch.testing.assert_close(network(TEXTS), network.head(read), atol=0, rtol=0)


def test_the_head_of_images_reads_the_last_block_without_its_final_norm_and_without_cls(parallel: Parallel) -> None:
    encoder = plain(normalize_before=True)
    network = build(parallel, IMAGES, encoder, partial(VisionFrontend, VISION))
    stir(network)
    batch = vision_batch(torch.zeros(2, 9, dtype=torch.bool))
    last_BSD = network.trunk.hidden_states(batch.inputs, None)[-1]
    outputs = network(batch)
    torch.testing.assert_close(outputs, network.head(last_BSD[:, 1:].mean(1)))
    outputs.sum().backward()
    assert without_gradient(network) == names_in(network, *IMAGES.unread_parts(encoder)) and len(without_gradient(network)) == 2


def test_a_head_that_reads_the_first_token_needs_a_front_end_without_prefix(parallel: Parallel) -> None:
    with pytest.raises(AssertionError, match="cuts off prefix tokens"):
        build(parallel, ROBERTA, PLAIN, partial(VisionFrontend, VISION))


def test_the_trunk_has_the_names_and_the_initial_values_of_a_students(parallel: Parallel) -> None:
    student = {name: p for name, p in build_student(parallel).named_parameters() if name.startswith("trunk.")}
    network = build(parallel)
    assert names_in(network, "trunk.") == student.keys()
    assert all(torch.equal(network.get_parameter(name), values) for name, values in student.items())


def test_masks_of_frames_and_of_channels_reach_the_front_end(parallel: Parallel) -> None:
    network = build(parallel, CTC, PLAIN, partial(SpeechFrontend, SPEECH))
    channels_BD = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    plain_batch, batch = recordings(), recordings(channel_mask_BD=channels_BD)
    batch.masks.mask_BS[:, 2:5] = True
    front = network.trunk.frontend(batch.inputs, batch.masks.mask_BS, batch.padding_mask_BS, channel_mask_BD=channels_BD)
    expected_BSD, _ = network.trunk.encoder(front.x_BSD, batch.padding_mask_BS, None, 2)
    torch.testing.assert_close(network(batch), network.head(expected_BSD), atol=0, rtol=0)
    assert not torch.allclose(network(batch), network(plain_batch))


def test_outputs_are_float32_for_any_weights(parallel: Parallel) -> None:
    assert build(parallel).bfloat16()(TEXTS).dtype == torch.float32


def test_a_frozen_trunk_and_frozen_features_get_no_gradient_and_change_no_output(parallel: Parallel) -> None:
    batch, frontend = recordings(), partial(SpeechFrontend, SPEECH)
    expected = build(parallel, CTC, PLAIN, frontend)(batch)
    for freezes_features, trains_trunk, frozen in (
        (False, True, ()),
        (True, True, ("trunk.frontend.extractor.",)),
        (False, False, ("trunk.",)),
        (True, False, ("trunk.",)),
    ):
        network = build(parallel, CTC, PLAIN, frontend, freezes_features=freezes_features)
        outputs = network(batch, trains_trunk)
        torch.testing.assert_close(outputs, expected, atol=0, rtol=0)
        outputs.square().sum().backward()
        assert without_gradient(network) == names_in(network, *frozen)


def test_evaluation_without_gradients_stays_without(parallel: Parallel) -> None:
    network, seen = build(parallel), list[bool]()
    network.trunk.register_forward_hook(lambda module, args, output: seen.append(output.x_BND.requires_grad))
    with torch.no_grad():
        assert not network(TEXTS, trains_trunk=True).requires_grad
    network(TEXTS, trains_trunk=True)
    assert seen == [False, True]


def ctc_losses(network: TaskNetwork, batch: Batch) -> Tensor:
    """Return the loss of each recording for a transcript of two letters. Shapes: (batch,)."""
    outputs_BNC = network(batch)
    B, N, _ = outputs_BNC.shape
    frames_B = torch.full((B,), N) if batch.padding_mask_BS is None else (~batch.padding_mask_BS).sum(1)
    letters = torch.tensor([[1, 2]]).expand(B, -1)
    return F.ctc_loss(outputs_BNC.log_softmax(-1).transpose(0, 1), letters, frames_B, torch.full((B,), 2), reduction="none")


def test_recordings_have_the_loss_and_the_gradients_alone_that_they_have_in_a_padded_batch_within_1e_5(parallel: Parallel) -> None:
    gradients = []
    losses = []
    for batches in ([recordings()], [recordings((length,)) for length in SAMPLES]):
        network = build(parallel, CTC, PLAIN, partial(SpeechFrontend, SPEECH))
        losses_B = torch.cat([ctc_losses(network, batch) for batch in batches])
        losses_B.mean().backward()
        losses.append(losses_B.detach() / losses_B.detach().max())
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, expected in gradients[1].items():
        assert float((gradients[0][name] - expected).abs().max()) <= 1e-5 * max(1.0, largest), name


def outputs_and_head(tp_size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the head's initial values; then the outputs, with dropout in the head, and the gradients of parameters that are not split."""
    parallel = init_parallel(tp_size, "cpu")
    network = build(parallel, HeadConfig(dropout=0.3))
    first = {name: p.detach().clone() for name, p in network.head.named_parameters()}
    outputs = network(TEXTS)
    F.cross_entropy(outputs, torch.tensor([1, 3])).backward()
    whole = [(name, p.grad) for name, p in network.named_parameters() if not getattr(p, "tensor_model_parallel", False)]
    return first, {"outputs": outputs.detach(), **{name: gradient for name, gradient in whole if gradient is not None}}


def test_tensor_parallel_ranks_hold_the_head_of_one_rank_and_get_its_gradients_within_1e_5() -> None:
    ((first, expected),) = run_distributed(outputs_and_head, 1, 1)
    ranks = run_distributed(outputs_and_head, 2, 2)
    for started, found in ranks:
        assert all(torch.equal(started[name], values) for name, values in first.items())
        assert found.keys() == expected.keys() and {"head.layers.0.weight", "head.layers.1.bias"} < found.keys()
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0)
    heads = [{name: values for name, values in found.items() if name.startswith("head.")} for _, found in ranks]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0]), "the ranks' heads stay equal"
