"""Attention with dropout or a learned bias on a CPU: the formula, its gradients, and which kernel is taken."""

import math

import pytest
import torch
from torch import Tensor

from model import attention
from model.attention import BlockedAttention, attend
from model.dropout import Dropout, DropoutStream
from tests.model.reference import seeded

STREAM = DropoutStream(seed=3, update=2)
MASKS = ["none", "keys", "bias", "bias and keys", "bias of each sample"]


def written_out(qkv_SBHTK: Tensor, mask: Tensor | None, keep_BHSS: Tensor | None) -> Tensor:
    """Return the attention as the formula says. `keep_BHSS`: factor of each probability."""
    S, B = qkv_SBHTK.shape[:2]
    q, k, v = qkv_SBHTK.permute(3, 1, 2, 0, 4).unbind(0)
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
    probs = logits.softmax(-1)
    mixed = (probs if keep_BHSS is None else probs * keep_BHSS) @ v
    return mixed.permute(2, 0, 1, 3).reshape(S, B, -1)


def kept(dropout: Dropout, B: int, H: int, S: int) -> Tensor:
    """Return the factors (B, H, S, S) that the dropout gives to the probabilities."""
    draws, factors = dropout.draws(), torch.empty(B, H, S, S, dtype=torch.float64)
    for b, heads in attention._blocks(B, H, S):
        factors[b, heads] = draws.keep(torch.empty(heads.stop - heads.start, S, S, dtype=torch.float64)) * draws.scale
    return factors


def masks(kind: str, B: int, H: int, S: int) -> tuple[Tensor | None, list[Tensor]]:
    """Return a mask and the tensors in it that are learned."""
    keep_B11S = torch.rand(B, 1, 1, S, generator=seeded(5)) > 0.3
    keep_B11S[..., 0] = True
    biases = B if kind == "bias of each sample" else 1
    bias = torch.randn(biases, H, S, S, generator=seeded(6), dtype=torch.float64, requires_grad=True)
    return {
        "none": (None, []),
        "keys": (keep_B11S, []),
        "bias and keys": (bias.masked_fill(~keep_B11S, float("-inf")), [bias]),
    }.get(kind, (bias, [bias]))


@pytest.mark.parametrize("prob", [0.0, 0.3])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("entries", [1 << 19, 2 * 13 * 13, 1])
def test_output_and_gradients_are_those_of_the_formula(kind: str, prob: float, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_ENTRIES", entries)
    S, B, H, K = 13, 2, 3, 8
    qkv = torch.randn(S, B, H, 3, K, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    mask, learned = masks(kind, B, H, S)
    dropout = Dropout(prob, STREAM, 5, split=True)
    out = attend(qkv, mask, dropout)
    expected = written_out(qkv, mask, kept(dropout, B, H, S) if prob else None)
    torch.testing.assert_close(out, expected)
    weights = torch.randn(out.shape, generator=seeded(2), dtype=torch.float64)
    inputs = [qkv, *learned]
    found = torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), inputs))


@pytest.mark.parametrize(("prob", "training", "kind", "is_ours"), [
    (0.1, True, "none", True),
    (0.0, True, "bias", True),
    (0.1, False, "none", False),
    (0.0, True, "keys", False),
])  # fmt: skip
def test_ours_computes_what_the_fused_kernel_cannot(prob: float, training: bool, kind: str, is_ours: bool) -> None:
    qkv = torch.randn(6, 2, 3, 3, 4, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    mask, _ = masks(kind, 2, 3, 6)
    out = attend(qkv, mask, Dropout(prob, STREAM, 5).train(training))
    assert (type(out.grad_fn).__name__ == f"{BlockedAttention.__name__}Backward") == is_ours


def test_dropout_without_gradient_draws_the_same_numbers_as_with_it() -> None:
    qkv = torch.randn(9, 2, 3, 3, 4, generator=seeded(1), requires_grad=True)
    dropout = Dropout(0.5, STREAM, 5)
    with torch.no_grad():
        frozen = attend(qkv, None, dropout)
    assert torch.equal(frozen, attend(qkv, None, dropout))


def test_bfloat16_is_as_close_to_float64_as_torchs_own() -> None:
    qkv = torch.randn(40, 2, 3, 3, 8, generator=seeded(1), dtype=torch.bfloat16)
    bias = torch.randn(1, 3, 40, 40, generator=seeded(2), dtype=torch.bfloat16, requires_grad=True)
    exact = written_out(qkv.double(), bias.double(), None)
    ours = attend(qkv, bias, Dropout(0.0, STREAM, 5)).double()
    theirs = written_out(qkv, bias, None).double()
    assert float((ours - exact).abs().max()) <= 1.5 * float((theirs - exact).abs().max())
