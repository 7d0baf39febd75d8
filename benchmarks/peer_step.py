"""A whole update of data2vec in plain torch, as a common implementation does it: networks of torch's own layers (peer_network.py), the
loss, clipping, fused AdamW and the teacher's EMA. It has the recipe's numbers, and no code of ours beside the settings."""

import copy
import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peer_network import ACTIVATIONS, PeerTrunk
from recipes.config import Recipe
from recipes.train.schedule import learning_rate


class PeerStep:
    """Student, teacher and optimizer. In bf16 and fp16 weights are float32 and torch.autocast chooses the dtype of each operator."""

    def __init__(self, recipe: Recipe, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Build the networks on `device`, with torch's random weights. `dtype`: that of the computation."""
        self._recipe, self._dtype, self._device, self._number = recipe, dtype, torch.device(device), 0
        self.student = PeerStudent(recipe).to(device)
        self.teacher = copy.deepcopy(self.student.trunk).requires_grad_(False).eval()
        optim = recipe.optim
        parameters = list(self.student.parameters())
        plain = [p for p in parameters if not optim.decay_norms_and_biases and p.dim() < 2]
        chosen = {id(p) for p in plain}
        groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in chosen]}, {"params": plain, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=True
        )

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss over the masked positions of a batch without padding."""
        assert batch.padding_mask_BS is None
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            prediction_MD, features_BND = self.student(batch)
            with torch.no_grad():
                shared = None if self._recipe.teacher.shares == "nothing" else features_BND
                _, outputs, _ = self.teacher(batch.clean_inputs, None, shared)
                target_BND = self._target(outputs)
        target_MD = target_BND.flatten(0, 1).index_select(0, batch.masks.masked_index_M)
        return self._regression(prediction_MD.float(), target_MD) / batch.masks.num_masked

    def run(self, batch: Any) -> Tensor:
        """Do one update on `batch` and return its loss."""
        optim, self._number = self._recipe.optim, self._number + 1
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(optim, self._number - 1)
        loss = self.loss(batch)
        loss.backward()
        if optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._follow()
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the teacher's averaged weights towards the student's, and copy the others."""
        config, weights = self._recipe.teacher, dict(self.student.trunk.named_parameters())
        shared = () if config.shares == "nothing" else tuple(f"frontend.{name}" for name in self.student.trunk.frontend.shared)
        averaged = [(own, weights[name]) for name, own in self.teacher.named_parameters() if not name.startswith(shared)]
        copied = [(own, weights[name]) for name, own in self.teacher.named_parameters() if name.startswith(shared)]
        torch._foreach_lerp_(*map(list, zip(*averaged, strict=True)), 1 - config.decay_after(self._number))
        if copied:
            torch._foreach_copy_([own for own, _ in copied], [weight for _, weight in copied])

    def _target(self, outputs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the normalised mean of the top layers, float32 (batch, positions, channels)."""
        config = self._recipe.teacher
        layers = [ffn if config.target == "ffn" else whole for ffn, whole in outputs[-config.average_top_k_layers :]]
        mean = torch.stack([_normalized(layer.float(), config.layer_norms) for layer in layers]).mean(0)
        return _normalized(mean, config.average_norms[::-1])

    def _regression(self, prediction_MD: Tensor, target_MD: Tensor) -> Tensor:
        config, D = self._recipe.loss, prediction_MD.shape[-1]
        if config.beta:
            loss = F.smooth_l1_loss(prediction_MD, target_MD, reduction="sum", beta=config.beta)
        else:
            loss = F.mse_loss(prediction_MD, target_MD, reduction="sum")
        loss = loss / D if config.channels == "mean" else loss
        return loss * (1 / math.sqrt(D) if config.scale is None else config.scale)


class PeerStudent(nn.Module):
    """The trunk, and the regression head at the masked positions."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = recipe.model.head_widths(recipe.model.hidden_size)
        self.trunk, self.activation = PeerTrunk(recipe), ACTIVATIONS[recipe.model.activation]
        self.head = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return the predictions (masked positions, channels), and the features for the teacher or None."""
        x_BND, _, features_BND = self.trunk(batch.inputs, batch.masks.mask_BS)
        x_MD = x_BND.flatten(0, 1).index_select(0, batch.masks.masked_index_M)
        x_MD = x_MD if self.trunk.final_norm is None else self.trunk.final_norm(x_MD)
        for number, layer in enumerate(self.head):
            x_MD = layer(self.activation(x_MD) if number else x_MD)
        return x_MD, features_BND


def _normalized(x_BND: Tensor, norms: tuple[str, ...]) -> Tensor:
    for norm in norms:
        if norm == "layer":
            x_BND = F.layer_norm(x_BND, x_BND.shape[-1:])
        elif norm == "instance":
            x_BND = F.instance_norm(x_BND.transpose(1, 2)).transpose(1, 2)
        else:
            raise AssertionError("no shipped recipe has the norm over the batch")
    return x_BND
