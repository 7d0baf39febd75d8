"""Time of collectives on a described cluster, its rates, and the text of --cluster."""

import json
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.plan.devices import A100, CPU, H100, H200
from recipes.plan.links import KEYS, Cluster, Collective

LINKS = {"node_gigabytes_per_second": 100, "network_gigabytes_per_second": 10, "node_microseconds": 1, "network_microseconds": 10}
PLAIN = Cluster(nodes=8, gpus=8, device=H100.changed(LINKS | {"peak_teraflops": {"bf16": 200, "fp32": 20}, "efficiency": 0.5}))
DEVICE = {"name": "x100", "peak_teraflops": {"bf16": 500, "fp32": 50}, "memory_gib": 96}


@pytest.mark.parametrize(
    ("collective", "seconds"),
    [
        (Collective("all_gather", 1e9, 1), 0),
        (Collective("all_gather", 8e9, 8), 8e9 * 7 / 8 / 100e9 + 3e-6),
        (Collective("reduce_scatter", 8e9, 4), 8e9 * 3 / 4 / 100e9 + 2e-6),
        (Collective("all_reduce", 8e9, 8), 2 * 8e9 * 7 / 8 / 100e9 + 3e-6),
        (Collective("all_gather", 8e9, 64), 8e9 * 63 / 64 / 80e9 + 3e-6 + 30e-6),
        (Collective("all_gather", 8e9, 64, stride=1), 8e9 * 63 / 64 / 80e9 + 3e-6 + 30e-6),
    ],
)
def test_bytes_move_at_the_slowest_link_of_all_ports_together_after_the_latency_of_the_hops(collective: Collective, seconds: float) -> None:
    assert PLAIN.seconds(collective) == pytest.approx(seconds)


def test_ranks_of_one_group_on_several_nodes_wait_for_the_network() -> None:
    """The copies of a model are one rank of each node."""
    near, apart = Collective("all_reduce", 8e9, 8), Collective("all_reduce", 8e9, 8, stride=8)
    assert PLAIN.seconds(apart) == pytest.approx(2 * 8e9 * 7 / 8 / 10e9 + 30e-6)
    assert PLAIN.seconds(apart) > 9 * PLAIN.seconds(near)
    fast = Cluster(nodes=8, gpus=8, device=PLAIN.device.changed({"network_gigabytes_per_second": 50}))
    assert fast.seconds(Collective("all_gather", 8e9, 64)) == pytest.approx(8e9 * 63 / 64 / 100e9 + 3e-6 + 30e-6), "eight ports, one node"
    assert PLAIN.seconds(Collective("all_gather", 8e9, 4, stride=2)) == PLAIN.seconds(Collective("all_gather", 8e9, 4)), "within a node"


def test_the_device_computes_at_its_peak_in_the_runs_precision_times_its_efficiency() -> None:
    assert (PLAIN.teraflops("bf16"), PLAIN.teraflops("fp32")) == (100, 10)
    with pytest.raises(ConfigError, match="device cpu has no peak in fp16"):
        Cluster(device=CPU).teraflops("fp16")


def test_the_ranks_of_a_node_share_its_cpu_and_each_has_a_gpu_of_its_own() -> None:
    one, two = Cluster(gpus=1, device=CPU), Cluster(gpus=2, device=CPU)
    assert two.teraflops("fp32") == one.teraflops("fp32") / 2
    assert two.memory_gigabytes_per_second == one.memory_gigabytes_per_second / 2
    assert Cluster(gpus=2).memory_gigabytes_per_second == H100.memory_gigabytes_per_second


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        ("{}", Cluster(1, 8, H100)),
        ("gpus=4", Cluster(1, 4, H100)),
        ("device=cpu", Cluster(1, 1, CPU)),
        (" nodes=4, gpus = 8 ,device=H200", Cluster(4, 8, H200)),
        ('{"nodes": 4, "gpus": 2, "device": "a100"}', Cluster(4, 2, A100)),
        ("watts=350,device=h100,efficiency=0.5", Cluster(1, 8, H100.changed({"watts": 350, "efficiency": 0.5}))),
        ('peak_teraflops={"fp16": 1, "bf16": 2},gpus=1', Cluster(1, 1, H100.changed({"peak_teraflops": {"fp16": 1, "bf16": 2}}))),
    ],
)
def test_a_list_or_an_object_describes_a_cluster_and_what_it_leaves_out_has_defaults(text: str, cluster: Cluster) -> None:
    assert Cluster.of_text(text) == cluster
    assert cluster.num_ranks == cluster.nodes * cluster.gpus


def test_a_device_of_its_own_is_an_object_within_the_list_or_a_file_and_so_is_the_cluster(tmp_path: Path) -> None:
    device, cluster = tmp_path / "x100.json", tmp_path / "cluster.json"
    device.write_text(json.dumps(DEVICE))
    cluster.write_text(json.dumps({"nodes": 2, "gpus": 4, "device": DEVICE, "watts": 100}))
    found = Cluster.of_text(f"nodes=2,device={json.dumps(DEVICE)},gpus=4,watts=100")
    assert (found.device.name, found.device.peak("fp32"), found.device.watts, found.num_ranks) == ("x100", 50, 100, 8)
    assert found == Cluster.of_text(f"nodes=2,gpus=4,watts=100,device={device}") == Cluster.of_text(str(cluster))
    assert found == Cluster.of_text(json.dumps({"nodes": 2, "gpus": 4, "device": str(device), "watts": 100}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no '=' in ''; write nodes=4,gpus=8,device=h100"),
        ("h100", "no '=' in 'h100'; write nodes"),
        ("gpus=8,,nodes=2", "no '=' in ''; write nodes"),
        ("gpus=8,gpus=4", "gpus stands twice"),
        ("{", "broken JSON at character 2"),
        ("[1]", "holds a list, must be an object such as"),
        ('{"gpus": 8} nodes=2', "'nodes=2' stands behind the object"),
        ('{"gpus": 8, "gpus": 4}', "a key stands twice in an object of JSON that has gpus"),
        ('device={"name": "x"} gpus=8', "no comma before 'gpus=8'"),
        ('device={"name": "x"', "--cluster device: broken JSON at character"),
        ("device={" + '"a":{' * 10**5, "nested too deeply"),
        ('{"gpus": 1' + "0" * 5000 + "}", "too long a number"),
        ("device=h1000", "no device 'h1000' in the table; did you mean h100"),
        ("device=", "no device '' in the table"),
        ("device=5", "device is 5, must be a name such as h100"),
        ('{"device": null}', "device is None, must be a name"),
        ("device=missing.json", "missing.json: No such file or directory; name a .json file with an object"),
        ("missing.json", "missing.json: No such file or directory"),
        ("gpus=0", "gpus is 0, must be an integer of at least 1"),
        ("gpus=-8", "gpus is -8, must be an integer of at least 1"),
        ("gpus=7.5", "gpus is 7.5, must be an integer of at least 1"),
        ("gpus=eight", "gpus is 'eight', must be an integer of at least 1"),
        ('{"nodes": true}', "nodes is True, must be an integer of at least 1"),
        ("nodes=", "nodes is '', must be an integer of at least 1"),
        ("node=2", "'node' is no key of a cluster; did you mean nodes"),
        ("ranks_per_node=8", "'ranks_per_node' is no key of a cluster; did you mean gpus"),
        ("device_teraflops=400", "did you mean peak_teraflops and efficiency"),
        ("memory_gib=0", "memory_gib is 0, must be a number above 0"),
        ("efficiency=nan", "efficiency is nan, must be a number above 0"),
        ("efficiency=1.5", "efficiency is 1.5, must be a share of the peak"),
        ("peak_teraflops=500", "peak_teraflops is 500, must name precisions"),
    ],
)
def test_a_description_that_makes_no_sense_is_an_error_of_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as found:
        Cluster.of_text(text)
    assert str(found.value).startswith("--cluster") and "\n" not in str(found.value) and len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff", "not UTF-8 text"), (b"", "broken JSON"), (b"[]", "holds a list"), (b"{} 5", "behind")]
)
def test_a_file_without_an_object_is_an_error_that_names_it(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for text in (str(path), f"device={path}"):
        with pytest.raises(ConfigError, match=f"a.json: .*{said}"):
            Cluster.of_text(text)


def test_nodes_and_gpus_are_checked_without_a_text_too_and_the_keys_are_one_word_each() -> None:
    with pytest.raises(ConfigError, match="gpus is 0"):
        Cluster(gpus=0)
    assert all(key.isidentifier() for key in KEYS)
