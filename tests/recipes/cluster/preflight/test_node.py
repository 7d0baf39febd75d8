"""One node's part: everything is measured, no file is left behind, and a failed measurement is recorded."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import rendezvous
from recipes.cluster.preflight import bandwidth, device_checks, measure, node
from recipes.cluster.preflight.node import Node
from recipes.cluster.preflight.node_report import ALL_REDUCE, RUN_DIR, Device
from recipes.cluster.rendezvous import Rendezvous
from recipes.cluster.slurm import node_name
from tests.clock import Clock
from tests.launching import contents


def alone(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(measure, "CPU_SECONDS", 0.0)
    return Node(Rendezvous(dist.HashStore(), 0, 1, 1.0), run_dir, 0, 1)


def test_a_fit_node_measures_everything_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = alone(tmp_path / "run", monkeypatch)
    one.prepare("abc")
    assert contents(tmp_path) == {".preflight_abc_0": b""}
    report = one.measure([0])
    one.clean()
    assert report.errors == {} and report.sees_first and report.tflops and report.disk_seconds and report.seconds_ahead == 0.0
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("function", "measurement"),
    [
        ("own_devices", "devices"),
        ("idle_devices", "devices"),
        ("versions", "versions"),
        ("free_bytes", "free memory and disks"),
        ("stale_locks", "locks of builds"),
        ("matmul_tflops", "matmul"),
        ("existing_folder", RUN_DIR),
        ("disk_seconds", RUN_DIR),
        ("has_appeared", RUN_DIR),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: broken\nlong story"), OSError(5, "Input/output error", "/a/file")])
def test_a_failed_measurement_does_not_stop_the_others(
    function: str, measurement: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(measure, function, fail)
    one = alone(tmp_path, monkeypatch)
    one.prepare("abc")
    report = one.measure([0])
    one.clean()
    assert report.errors == {measurement: "CUDA error: broken" if isinstance(error, RuntimeError) else "Input/output error"}
    assert (
        report.host
        and report.num_cores
        and (report.tflops or measurement in ("matmul", "devices"))
        and (report.versions or measurement == "versions")
    )


def test_a_process_among_several_measures_with_its_own_device_and_share_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 6 of 7 is the second of two processes on its node, where torch sees four devices."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    for name, function in {
        **{"is_available": lambda: True, "device_count": lambda: 4},
        **{"get_device_name": lambda index: f"device {index}", "mem_get_info": lambda index: calls.append(("memory", index)) or (3, 4)},
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(measure, "matmul_tflops", lambda *args: calls.append(("matmul", *args)) or [7.5])
    monkeypatch.setattr(bandwidth, "bandwidth", lambda store, *args: calls.append(("bandwidth", *args)) or {ALL_REDUCE: 2.5})
    monkeypatch.setattr(measure, "disk_seconds", lambda folder, name: calls.append(("disk", folder, name)) or 0.5)
    here = Rendezvous(dist.HashStore(), 6, 7, 3.25)
    here.put("clock_answer/6", time.time() + 100.0)
    one = Node(here, tmp_path, 1, 2)
    one.prepare("abc")
    (tmp_path / ".preflight_abc_0").touch()
    report = one.measure(list(range(7)))
    one.clean()
    in_run_dir, together = ("disk", tmp_path, ".preflight_abc_6_disk"), ("bandwidth", 6, 7, 1, 3.25)
    assert calls == [("memory", 1), ("matmul", [1], 6), in_run_dir, together], "memory is measured before anything has used it"
    assert report.devices == [Device("device 1", 7.5, 0.75)] and (report.gb_per_second, report.disk_seconds) == ({ALL_REDUCE: 2.5}, 0.5)
    assert (report.num_cores, report.host, report.errors, report.sees_first) == (12, node_name(), {}, True) and report.seconds_ahead < -90
    assert contents(tmp_path) == {".preflight_abc_0": b""}, "only its own file is removed"


def test_bandwidth_is_not_measured_if_a_node_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CPU_SECONDS", 0.0)
    monkeypatch.setattr(rendezvous, "time", Clock())
    one = Node(Rendezvous(dist.HashStore(), 0, 3, 0.1), tmp_path, 0, 1)
    one.prepare("abc")
    report = one.measure([0, 1])
    one.clean()
    assert (report.gb_per_second, report.errors) == ({}, {})


def test_a_file_of_another_node_may_appear_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks, first = Clock(), [], tmp_path / ".preflight_abc_0"

    def exists(path: Path, really: Callable[[Path], bool] = Path.exists) -> bool:
        looks.append(path)
        return looks.count(first) > 30 if path == first else really(path)

    for module in (measure, rendezvous, node):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(torch, "mm", lambda *_, out: clock.sleep(1.0))
    monkeypatch.setattr(Path, "exists", exists)
    here = Rendezvous(dist.HashStore(), 1, 2, 0.1)
    here.put("clock_answer/1", clock.now)
    other = Node(here, tmp_path, 0, 1)
    other.prepare("abc")
    report = other.measure([1])
    other.clean()
    assert report.sees_first and looks.count(first) == 31
    assert clock.now - 1000.0 == pytest.approx(1.0 + 30 * measure.LOOK_SECONDS), "the product, and a pause after each look"


def test_the_first_reason_is_kept_and_the_current_measurement_is_put_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = alone(tmp_path, monkeypatch)
    current: list[dict[str, str]] = []
    for function, text in (("own_devices", "first"), ("idle_devices", "second")):

        def fail(*_: object, text: str = text) -> None:
            current.append(first._rendezvous.get("doing/0", 0))
            raise RuntimeError(text)

        monkeypatch.setattr(measure, function, fail)
    first.prepare("abc")
    first.clean()
    assert first.errors == {"devices": "first"} and current == [{"host": node_name(), "measurement": "devices"}] * 2


def test_a_defect_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "versions", lambda: {}["missing"])
    with pytest.raises(KeyError):
        alone(tmp_path, monkeypatch).prepare("abc")


@pytest.mark.parametrize(("local_rank", "runs"), [(0, True), (1, False)])
def test_only_the_first_process_of_a_node_runs_the_device_checks(
    local_rank: int, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"summary": "1 failed", "failures": {"check shards": "on the host"}}
    monkeypatch.setattr(device_checks, "run", lambda has_device: found)
    one = Node(Rendezvous(dist.HashStore(), 0, 1, 1.0), tmp_path, local_rank, 2)
    assert one.check_device() == (found if runs else {"summary": "", "failures": {}})


def test_device_checks_that_cannot_start_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(has_device: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(device_checks, "run", refuse)
    assert alone(tmp_path, monkeypatch).check_device() == {"summary": "", "failures": {"device checks": "No space left on device"}}
