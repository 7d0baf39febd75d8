"""Time of collectives on a described cluster, and what an update waits for."""

import pytest

from recipes.errors import ConfigError
from recipes.plan.links import Cluster, Collective, estimate

PLAIN = Cluster(
    ranks_per_node=8,
    node_gigabytes_per_second=100,
    network_gigabytes_per_second=10,
    node_microseconds=1,
    network_microseconds=10,
    device_teraflops=100,
)


@pytest.mark.parametrize(
    ("collective", "seconds"),
    [
        (Collective("all_gather", 1e9, 1), 0),
        (Collective("all_gather", 8e9, 8), 8e9 * 7 / 8 / 100e9 + 3e-6),
        (Collective("reduce_scatter", 8e9, 4), 8e9 * 3 / 4 / 100e9 + 2e-6),
        (Collective("all_reduce", 8e9, 8), 2 * 8e9 * 7 / 8 / 100e9 + 3e-6),
        (Collective("all_gather", 8e9, 64), 8e9 * 63 / 64 / 10e9 + 3e-6 + 30e-6),
    ],
)
def test_bytes_move_at_the_bandwidth_of_the_slowest_link_after_the_latency_of_the_hops(collective: Collective, seconds: float) -> None:
    assert PLAIN.seconds(collective) == pytest.approx(seconds)


def test_an_update_takes_as_long_as_the_longest_of_host_device_and_links() -> None:
    found = estimate(PLAIN, 0.02, 1e12, [Collective("all_gather", 8e9, 8), Collective("all_gather", 8e9, 8)])
    assert found.host == 0.02 and found.device == pytest.approx(0.01) and found.communication == pytest.approx(0.14, rel=1e-3)
    assert (found.binds, found.step) == ("communication", found.communication)
    assert estimate(PLAIN, 0.02, 1e12, []).binds == "host"


def test_a_cluster_is_described_by_json_with_defaults() -> None:
    assert Cluster.of_text("{}") == Cluster()
    assert Cluster.of_text('{"ranks_per_node": 4}') == Cluster(ranks_per_node=4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "broken JSON"),
        ("[1]", r"\[1\] describes no cluster; known are ranks_per_node"),
        ('{"gpus": 8}', "gpus describes no cluster; known are ranks_per_node"),
        ('{"ranks_per_node": 0}', "ranks_per_node is 0, must be a number above 0"),
        ('{"device_teraflops": "fast"}', "device_teraflops is fast, must be a number above 0"),
    ],
)
def test_a_description_that_makes_no_sense_is_an_error(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cluster.of_text(text)
