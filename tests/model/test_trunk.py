"""The trunk: arguments of front-end and encoder, outputs that it drops, and the selection between them."""

import torch
from torch import Tensor, nn

from model.dropout import DropoutStream
from model.frontends.output import FrontendOutput
from model.frontends.text import PAD
from model.init import Init
from model.parallel import Parallel
from model.trunk import EncoderInput, SelectAll, Trunk
from tests.model.reference import PLAIN, VISION, bools, build_student, build_vision_student, stir, text_frontend, vision_batch

PATCHES_BN = bools("110000000", "000010001")


def test_trunk_passes_mask_and_padding_to_front_end_and_encoder(parallel: Parallel) -> None:
    trunk: Trunk = build_student(parallel).trunk
    padding_BS = bools("0011")
    ids_BS = torch.tensor([[5, 6, PAD, PAD]])
    padded = trunk(ids_BS, None, padding_BS, keep_from=1)
    short = trunk(ids_BS[:, :2], None, None, keep_from=1)
    assert len(padded.layers) == 1 and padded.features_BND is None
    torch.testing.assert_close(padded.x_BND[:, :2], short.x_BND, atol=1e-5, rtol=1e-5)


def test_prefix_tokens_are_attended_to_and_then_dropped(parallel: Parallel) -> None:
    """Nine patches behind a CLS vector: ten positions in the encoder, nine in every output."""
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    stir(student)
    seen = []
    student.trunk.encoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    out = student.trunk(batch.inputs, PATCHES_BN, None, keep_from=0)
    (entered_BSD, (whole_BSD, layers)), N = seen[0], VISION.grid**2
    assert entered_BSD.shape == (2, N + 1, 16) and out.x_BND.shape == (2, N, 16) and len(out.layers) == 2
    torch.testing.assert_close(out.x_BND, whole_BSD[:, 1:], atol=0, rtol=0)
    for own, layer in zip(out.layers, layers, strict=True):
        torch.testing.assert_close(own.ffn_SBD, layer.ffn_SBD[1:], atol=0, rtol=0)
        torch.testing.assert_close(own.block_SBD, layer.block_SBD[1:], atol=0, rtol=0)
    torch.testing.assert_close(student(batch).prediction_MD, student.head(out.x_BND)[PATCHES_BN])
    student.trunk.frontend.cls_vector.data += 1.0
    assert not torch.allclose(student.trunk(batch.inputs, PATCHES_BN, None, keep_from=2).x_BND, out.x_BND), "the patches attend to it"


def test_a_trunk_uses_given_features_in_place_of_inputs(parallel: Parallel) -> None:
    trunk, batch = build_vision_student(parallel).trunk, vision_batch(PATCHES_BN)
    features_BND = trunk.frontend(batch.inputs, None, None).features_BND
    expected_BND = trunk(batch.inputs, None, None, keep_from=2).x_BND
    read_BND = trunk(torch.full_like(batch.inputs, torch.nan), None, None, keep_from=2, features_BND=features_BND).x_BND
    torch.testing.assert_close(read_BND, expected_BND, atol=0, rtol=0)


class Reversed(nn.Module):
    """A selection that reverses the tokens and records its masks."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[Tensor | None, Tensor | None]] = []

    def forward(self, front: FrontendOutput, mask_BN: Tensor | None, padding_mask_BN: Tensor | None) -> EncoderInput:
        self.masks.append((mask_BN, padding_mask_BN))
        return EncoderInput(front.x_BSD.flip(1), None if padding_mask_BN is None else padding_mask_BN.flip(1), None)


def test_the_selection_module_determines_the_encoded_tokens(parallel: Parallel) -> None:
    reversing = Reversed()
    trunk = Trunk(PLAIN, text_frontend(), Init(1), parallel, DropoutStream(), select=reversing)
    plain_trunk = build_student(parallel).trunk
    ids_BS, mask_BS, padding_BS = torch.tensor([[5, 6, 7, PAD]]), bools("0100"), bools("0001")
    out = trunk(ids_BS, mask_BS, padding_BS, keep_from=0)
    assert [(id(mask), id(padding)) for mask, padding in reversing.masks] == [(id(mask_BS), id(padding_BS))]
    front = plain_trunk.frontend(ids_BS, mask_BS, padding_BS)
    expected_BSD, _ = plain_trunk.encoder(front.x_BSD.flip(1), padding_BS.flip(1), None, 0)
    torch.testing.assert_close(out.x_BND, expected_BSD, atol=0, rtol=0)
    assert not torch.allclose(out.x_BND, plain_trunk(ids_BS, mask_BS, padding_BS, keep_from=0).x_BND)


def test_every_embedded_token_is_encoded_by_default(parallel: Parallel) -> None:
    trunk, batch = build_vision_student(parallel).trunk, vision_batch(PATCHES_BN)
    assert isinstance(trunk.select, SelectAll) and not list(trunk.select.parameters())
    assert {name.partition(".")[0] for name, _ in trunk.named_parameters()} == {"frontend", "encoder"}
    front = trunk.frontend(batch.inputs, PATCHES_BN, None)
    padding_BS = bools("0000000001", "0000000000")
    chosen = SelectAll()(front, PATCHES_BN, padding_BS)
    assert chosen.x_BSD is front.x_BSD and chosen.padding_mask_BS is padding_BS and chosen.bias_LHSS is front.bias_LHSS is not None


def test_hidden_states_are_the_encoders_input_and_every_blocks_output_with_prefix_tokens(parallel: Parallel) -> None:
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    stir(student)
    trunk = student.trunk
    hidden = trunk.hidden_states(batch.inputs, None)
    front, out = trunk.frontend(batch.inputs, None, None), trunk(batch.inputs, None, None, keep_from=0)
    torch.testing.assert_close(hidden[0], front.x_BSD, atol=0, rtol=0)
    for own, layer in zip(hidden[1:], out.layers, strict=True):
        torch.testing.assert_close(own[:, 1:], layer.block_SBD.transpose(0, 1), atol=0, rtol=0)
    torch.testing.assert_close(trunk.encoder.final_norm(hidden[-1])[:, 1:], out.x_BND, atol=0, rtol=0)


def test_hidden_states_attend_to_no_padding(parallel: Parallel) -> None:
    trunk: Trunk = build_student(parallel).trunk
    padded = trunk.hidden_states(torch.tensor([[5, 6, PAD, PAD]]), bools("0011"))
    for long, short in zip(padded, trunk.hidden_states(torch.tensor([[5, 6]]), None), strict=True):
        torch.testing.assert_close(long[:, :2], short, atol=1e-5, rtol=1e-5)
