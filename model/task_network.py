"""The network of a supervised task: a trunk, as it was pre-trained, with the task's head. No loss here.

Shapes: B batch, N positions of the samples themselves, D channels, C outputs.
"""

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig, HeadConfig
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.task_heads import TaskHead, mean_over_positions
from model.trunk import FrontendBuilder, Trunk


class TaskNetwork(nn.Module):
    """A trunk and a head. Its trunk has the same names and initial values as that of a student."""

    def __init__(
        self,
        config: EncoderConfig,
        build_frontend: FrontendBuilder,
        init: Init,
        parallel: Parallel,
        stream: DropoutStream,
        *,
        head: HeadConfig,
        num_outputs: int,
        freezes_features: bool = False,
    ) -> None:
        """`freezes_features`: the front-end embeds raw inputs without gradient. The parameters of head.unread_parts() get none either."""
        super().__init__()
        self.trunk = Trunk(config, build_frontend, init, parallel, stream)
        self.trunk.frontend.freezes_features = freezes_features
        self.trunk.encoder.skips_final_norm = head.norm
        assert head.reads != "cls" or self.trunk.frontend.num_prefix_tokens == 0, "the trunk cuts off prefix tokens such as CLS"
        self.head = TaskHead(head, config, num_outputs, init.at("head"), stream)
        self.reads = head.reads

    def forward(self, batch: Batch, trains_trunk: bool = True) -> Tensor:
        """Return the head's outputs in float32: (B, C), or (B, N, C) if it reads every position; those at padding mean nothing.
        `trains_trunk` False: the trunk gets no gradient. Its dropout stays on in training, as in fairseq."""
        with torch.set_grad_enabled(trains_trunk and torch.is_grad_enabled()):
            x_BND = self.trunk(
                batch.inputs,
                batch.masks.mask_BS,
                batch.padding_mask_BS,
                keep_from=len(self.trunk.encoder.layers),
                channel_mask_BD=batch.masks.channel_mask_BD,
            ).x_BND
        if self.reads == "cls":
            return self.head(x_BND[:, 0]).float()
        if self.reads == "mean":
            return self.head(mean_over_positions(x_BND, batch.padding_mask_BS)).float()
        return self.head(x_BND).float()
