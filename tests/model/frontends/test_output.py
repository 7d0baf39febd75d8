"""Optional parts of a front-end."""

import torch

from model.frontends.output import Frontend, FrontendOutput


def test_a_front_end_without_bias_and_features_returns_only_its_tokens() -> None:
    x_BSD = torch.zeros(1, 2, 3)
    assert FrontendOutput(x_BSD) == (x_BSD, None, None, None)


def test_a_front_end_has_no_prefix_by_default() -> None:
    assert Frontend().num_prefix_tokens == 0
