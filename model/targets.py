"""The student's targets: the average of the teacher's top-K layer outputs, normalised. No parameters, no gradient.

Shapes: B batch, S sequence, D hidden.
"""

import torch.nn.functional as F
from torch import Tensor

from model.config import Norm, TeacherConfig
from model.layers import LayerOutput


def average_targets(outputs: list[LayerOutput], config: TeacherConfig) -> Tensor:
    """Return targets (B, S, D) in float32 at every position, from the outputs of the last K blocks.

    Each layer gets the norms in config.layer_norms (order: batch, instance, layer). Then the mean over layers gets the norms in
    config.average_norms (order: layer, instance). The norms have no parameters; eps is torch's 1e-5. Statistics over time include
    padded positions, as published. Source: paper section 3.3; order: fairseq data2vec_text.py.
    """
    assert len(outputs) == config.average_top_k_layers
    total_BSD: Tensor | None = None
    for output in outputs:
        feature_SBD = output.ffn_SBD if config.target == "ffn" else output.block_SBD
        feature_BSD = feature_SBD.float().transpose(0, 1)
        for norm in sorted(config.layer_norms):  # alphabetical is the published order: batch, instance, layer
            feature_BSD = normalize(feature_BSD, norm)
        total_BSD = feature_BSD if total_BSD is None else total_BSD + feature_BSD
    assert total_BSD is not None
    average_BSD = total_BSD / len(outputs)
    for norm in sorted(config.average_norms, reverse=True):  # layer, then instance
        average_BSD = normalize(average_BSD, norm)
    return average_BSD


def normalize(x_BSD: Tensor, norm: Norm) -> Tensor:
    """Normalise to zero mean and unit variance. `layer`: over the channels of a position. `instance`: per channel, over the
    positions of a sample. `batch`: per channel, over the positions of all samples of the micro-batch."""
    if norm == "layer":
        return F.layer_norm(x_BSD, x_BSD.shape[-1:])
    x_BDS = x_BSD.transpose(1, 2)
    if norm == "instance":
        return F.instance_norm(x_BDS).transpose(1, 2)
    return F.batch_norm(x_BDS, running_mean=None, running_var=None, training=True).transpose(1, 2)
