"""The lines of a dry run about what a run computes and how long it takes."""

import pytest

from recipes.ds_config import resolve
from recipes.plan.summary import cluster_of, summary_lines
from recipes.text import text_tiny


@pytest.mark.parametrize(
    ("name", "ranks", "local", "imagined", "found"),
    [
        (None, 2, None, False, (1, 2, "cpu")),
        (None, 64, None, True, (8, 8, "h100")),
        (None, 4, None, True, (1, 4, "h100")),
        ("NVIDIA A100-SXM4-80GB", 16, 8, False, (2, 8, "a100")),
    ],
)
def test_the_cluster_of_a_launch(name: str | None, ranks: int, local: int | None, imagined: bool, found: tuple[int, int, str]) -> None:
    cluster = cluster_of(name, ranks, local, is_imagined=imagined)
    assert cluster is not None and (cluster.nodes, cluster.gpus, cluster.device.name) == found


@pytest.mark.parametrize("name", ["NVIDIA GeForce GTX 1080", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_device_that_is_not_in_the_table_has_no_time(name: str) -> None:
    assert cluster_of(name, 8, 8, is_imagined=False) is None


def test_the_lines_have_flops_tokens_checkpoint_and_time() -> None:
    recipe = text_tiny()
    config = resolve(recipe, {}, "x.json", 1)
    flops, checkpoint, time = summary_lines(recipe, config, cluster_of(None, 1, None, is_imagined=False))
    assert flops == "FLOPs: 0.72e9 a sample, 0.01e12 an update; at most 2,048 tokens an update and 0.004e9 in the run"
    assert checkpoint == "checkpoint: 0.01 GB"
    assert time.startswith("time, estimated for 1 cpu ranks: ") and time.endswith(" hours; launch/plan.py has the arithmetic")
    assert len(summary_lines(recipe, config, None)) == 2
    half = resolve(recipe, {"fp16": {"enabled": True}}, "x.json", 1)
    assert (
        "not estimated, --cluster: device cpu has no peak in fp16"
        in summary_lines(recipe, half, cluster_of(None, 1, 1, is_imagined=False))[2]
    )
