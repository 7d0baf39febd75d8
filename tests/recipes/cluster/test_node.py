"""One node's part: everything is measured, nothing stays behind, and what fails is a fact."""

from pathlib import Path

import pytest
import torch.distributed as dist

from recipes.cluster import measure
from recipes.cluster.facts import RUN_DIR
from recipes.cluster.meeting import Meeting
from recipes.cluster.node import Node
from tests.launching import contents


def alone(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(measure, "CPU_SECONDS", 0.0)
    return Node(Meeting(dist.HashStore(), 0, 1, 1.0), run_dir, 0, 1)


def test_a_fit_node_measures_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = alone(tmp_path / "run", monkeypatch)
    one.prepare("abc")
    assert contents(tmp_path) == {".preflight_abc_0": b""}
    facts = one.measure([0])
    one.clean()
    assert facts.errors == {} and facts.sees_first and facts.tflops and facts.disk_seconds and facts.seconds_ahead == 0.0
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("function", "fact"),
    [
        ("own_devices", "devices"),
        ("idle_devices", "devices"),
        ("versions", "versions"),
        ("free_bytes", "free memory and disks"),
        ("stale_locks", "locks of builds"),
        ("matmul_tflops", "matmul"),
        ("folder_of", RUN_DIR),
        ("disk_seconds", RUN_DIR),
        ("has_appeared", RUN_DIR),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: broken\nlong story"), OSError(5, "Input/output error", "/a/file")])
def test_one_broken_measurement_stops_no_other(
    function: str, fact: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(measure, function, fail)
    one = alone(tmp_path, monkeypatch)
    one.prepare("abc")
    facts = one.measure([0])
    one.clean()
    assert facts.errors == {fact: "CUDA error: broken" if isinstance(error, RuntimeError) else "Input/output error"}
    assert facts.host and facts.num_cores and (facts.tflops or fact in ("matmul", "devices")) and (facts.versions or fact == "versions")


def test_a_defect_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "versions", lambda: {}["missing"])
    with pytest.raises(KeyError):
        alone(tmp_path, monkeypatch).prepare("abc")
