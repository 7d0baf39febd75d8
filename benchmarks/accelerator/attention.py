"""Report the attention kernel of each modality's student and teacher, and check its gradients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from accelerator.result import FAIL, OK, Row
from accelerator.setting import joined_world
from accelerator.worker import Context
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.init import Init
from model.layers import Attention, attention_mask
from model.parallel import Parallel
from model.positions import PatchBias
from recipes.catalog import RECIPES

LENGTHS = {"text": 512, "speech": 499, "vision": 197}
TINY_LENGTHS = {"text": 64, "speech": 49, "vision": 65}
FAULTY_LENGTHS = (192, 320)
"""S % 128 = 64 with a mask: cuDNN's backward gives NaN at these lengths (pytorch issue 196678)."""
BATCH, PADDED_SHARE = 8, 0.25
KERNELS = {
    "flash": "_scaled_dot_product_flash_attention",
    "memory-efficient": "_scaled_dot_product_efficient_attention",
    "cuDNN": "_scaled_dot_product_cudnn_attention",
    "plain formula (math)": "_scaled_dot_product_attention_math",
}
TOLERANCE = 0.03
"""Relative to the norm of a gradient: bf16 against fp32."""


@dataclass(frozen=True)
class Case:
    """One call of attention with the sizes of a real network."""

    modality: str
    length: int
    is_student: bool
    is_padded: bool
    dropout: float

    def title(self) -> str:
        """Return the case in words, for the table."""
        who = "student" if self.is_student else "teacher"
        return f"{self.modality} {who}, S {self.length}{', padded' if self.is_padded else ''}, dropout {self.dropout:g}"


def check_attention(context: Context) -> Iterator[Row]:
    """Check the cases of all modalities, then padding at the lengths with a known fault."""
    with joined_world() as (world, parallel):
        for case in cases(context.is_tiny):
            yield check_case(case, encoder_config(case, context.is_tiny), parallel, world.device)


def cases(is_tiny: bool) -> Iterator[Case]:
    """Yield the attention calls of each modality's networks. Images have a bias and no padding."""
    for modality, length in (TINY_LENGTHS if is_tiny else LENGTHS).items():
        published = RECIPES[modality][f"{modality}_base"]().model.attention_dropout
        for is_padded in (False, True) if modality != "vision" else (False,):
            for dropout in dict.fromkeys((published, 0.1, 0.0)):
                yield Case(modality, length, True, is_padded, dropout)
            yield Case(modality, length, False, is_padded, 0.0)
    for length in FAULTY_LENGTHS:
        yield Case("text", length, True, True, 0.0)


def encoder_config(case: Case, is_tiny: bool) -> EncoderConfig:
    """Return the encoder of the base or the tiny recipe, with the case's dropout."""
    recipe = RECIPES[case.modality][f"{case.modality}_{'tiny' if is_tiny else 'base'}"]()
    return replace(recipe.model, attention_dropout=case.dropout)


def check_case(case: Case, config: EncoderConfig, parallel: Parallel, device: torch.device) -> Row:
    """Run the case under a profiler. If it has no dropout, compare with the plain formula in float32."""
    made = Call(case, config, parallel, device)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        gradients = made.run(torch.bfloat16)
    kernel = kernel_of(event.key for event in profiler.key_averages())
    numbers: dict[str, Any] = {"kernel": kernel}
    bad = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    if bad:
        return Row(case.title(), FAIL, f"{kernel}; not finite: {', '.join(bad)}", numbers)
    if case.dropout == 0:
        with sdpa_kernel(SDPBackend.MATH):
            exact = made.run(torch.float32)
        numbers["errors"] = {n: float((gradients[n].double() - e.double()).norm() / e.double().norm()) for n, e in exact.items()}
        worst = max(numbers["errors"].values())
        return Row(case.title(), OK if worst <= TOLERANCE else FAIL, f"{kernel}; finite, {worst:.1e} from float32", numbers)
    return Row(case.title(), OK, f"{kernel}; finite", numbers)


def kernel_of(operators: Any) -> str:
    """Return the kernel, from the operator that scaled_dot_product_attention called."""
    names = set(operators)
    return next((kernel for kernel, operator in KERNELS.items() if any(operator in name for name in names)), "unknown")


class Call:
    """Module, input and mask of a case. run() returns the gradients, or the output of a teacher, which has none."""

    def __init__(self, case: Case, config: EncoderConfig, parallel: Parallel, device: torch.device) -> None:
        self._case, self._device = case, device
        self._module: nn.Module = Attention(config, Init(0), parallel, DropoutStream(), 0).to(device)
        self._bias: nn.Module | None = None
        if case.modality == "vision":
            self._bias = PatchBias(config.num_attention_heads, round((case.length - 1) ** 0.5), parallel).to(device)
        generator = torch.Generator().manual_seed(0)
        self._x_SBD = torch.randn(case.length, BATCH, config.hidden_size, generator=generator).to(device)
        lengths = torch.full((BATCH, 1), case.length)
        if case.is_padded:
            lengths = (case.length * (1 - PADDED_SHARE * torch.rand(BATCH, 1, generator=generator))).long()
        self._padding_BS = torch.arange(case.length) >= lengths

    def run(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Run forward, and backward for a student, in this dtype."""
        case, module = self._case, self._module.to(dtype).train(self._case.is_student)
        x_SBD = self._x_SBD.to(dtype).requires_grad_(case.is_student)
        with torch.set_grad_enabled(case.is_student):
            bias_HSS = None if self._bias is None else self._bias().to(dtype)
            mask = attention_mask(self._padding_BS.to(self._device) if case.is_padded else None, bias_HSS)
            out_SBD = module(x_SBD, mask)
            if not case.is_student:
                return {"output": out_SBD.float()}
            kept_SB1 = (~self._padding_BS).t().unsqueeze(-1).to(self._device)
            (out_SBD.float() * kept_SB1).square().mean().backward()
        named = dict(module.named_parameters()) | (dict(self._bias.named_parameters(prefix="bias")) if self._bias else {})
        found = {"input": x_SBD.grad} | {name: parameter.grad for name, parameter in named.items()}
        kept = {name: gradient.float() for name, gradient in found.items() if gradient is not None}
        for parameter in named.values():
            parameter.grad = None
        return kept
