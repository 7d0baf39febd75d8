"""The teacher: the student's trunk without masks or gradient, and its EMA weights, sharded like the student's.

Shapes: B batch, S sequence, D hidden. No rank arithmetic here: the caller, which has the engine, passes the shards.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig, TeacherConfig
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.targets import average_targets
from model.trunk import FrontendBuilder, Trunk


class Teacher(nn.Module):
    """The network that computes targets: a trunk in eval mode, without gradient, on the unmasked input. Its own DeepSpeed engine calls
    its forward."""

    def __init__(
        self, config: EncoderConfig, teacher: TeacherConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel
    ) -> None:
        super().__init__()
        self.config = teacher
        self.trunk = Trunk(config, build_frontend, init, parallel, DropoutStream())
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever `mode` is, so that targets are computed without dropout."""
        return super().train(False)

    def forward(self, batch: Batch, features_BND: Tensor | None) -> Tensor:
        """Return the targets at every position, float32 (batch, positions, channels). `features_BND` is the student's embedded input, or
        None. It is used unless config.shares is "nothing" (paper section 3.3: sharing the feature encoder is more efficient)."""
        keep_from = len(self.trunk.encoder.layers) - self.config.average_top_k_layers
        if self.config.shares == "nothing":
            features_BND = None
        out = self.trunk(
            batch.clean_inputs, None, batch.clean_padding_mask_BS, keep_from, features_BND=features_BND, segments=batch.segments
        )
        return average_targets(out.layers, self.config)


class ShadowWeights:
    """The teacher's weights in float32 ("shadow"): an average (EMA) of the student's, held in shards like the student's float32 weights.

    If the teacher computes in float32 on the same device, the shadow is the teacher's shard itself. Otherwise the teacher's shard is the
    shadow, rounded. An update touches local memory only: no gather and no collective. Source: paper section 3.2, equation "Delta <- tau
    Delta + (1 - tau) theta".
    """

    def __init__(
        self, masters: dict[str, Tensor], shards: dict[str, Tensor], copied: set[str], after_write: Callable[[], object] = lambda: None
    ) -> None:
        """`masters`: the student's fp32 shards of the trunk, by parameter name. `shards`: the teacher's shards under the same names.
        `copied`: names of weights that are copied from the student instead of averaged. `after_write`: called after each write into
        `shards`."""
        assert masters.keys() == shards.keys() and copied <= masters.keys()
        assert all(masters[name].shape == shards[name].shape for name in masters), "student and teacher are partitioned differently"
        in_place = {n for n, shard in shards.items() if shard.dtype == torch.float32 and shard.device == masters[n].device}
        self.shadows = {n: shard if n in in_place else masters[n].detach().clone() for n, shard in shards.items()}
        self._averaged = [n for n in masters if n not in copied]
        self._copied = [n for n in masters if n in copied]
        self._rounded = [n for n in masters if n not in in_place]
        self._masters, self._shards, self._after_write = masters, shards, after_write
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Set all of the teacher's weights to the student's current ones."""
        torch._foreach_copy_(list(self.shadows.values()), [self._masters[n] for n in self.shadows])
        self.publish()

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Do one EMA step: teacher = decay * teacher + (1 - decay) * student, and copy the weights that are not averaged. Call it once
        after each applied optimizer update."""
        if self._averaged:
            torch._foreach_lerp_([self.shadows[n] for n in self._averaged], [self._masters[n] for n in self._averaged], 1 - decay)
        if self._copied:
            torch._foreach_copy_([self.shadows[n] for n in self._copied], [self._masters[n] for n in self._copied])
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the float32 EMA weights to the teacher's dtype and write them into the shards that the teacher computes with. Nothing is
        written where both are the same tensor. In both cases, call `after_write` at the end."""
        if self._rounded:
            torch._foreach_copy_([self._shards[n] for n in self._rounded], [self.shadows[n] for n in self._rounded])
        self._after_write()
