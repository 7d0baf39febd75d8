"""The place of a task from Slurm's variables, and the note about allocated nodes that are not used."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.cluster import slurm

STEP = {
    **{
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "1",
        "SLURM_PROCID": "4",
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "2",
    },
    **{"SLURM_STEP_TASKS_PER_NODE": "1,3,2", "SLURM_STEP_NODELIST": "a,b,c", "SLURMD_NODENAME": "c", "SLURM_JOB_NODELIST": "a,b,c,d"},
}


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*STEP, "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT"]:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**STEP, **changes}.items():
        monkeypatch.setenv(name, value)


def test_the_place_of_a_task_is_read_from_slurms_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not slurm.is_in_step() and slurm.allocated_nodes() == []
    set_all(monkeypatch)
    assert slurm.is_in_step() and slurm.task() == (4, 6, 0, 2)
    assert slurm.node_name() == "c" and slurm.allocated_nodes() == ["a", "b", "c"]
    monkeypatch.delenv("SLURM_STEP_ID")
    assert not slurm.is_in_step(), "a batch script has SLURM_PROCID too"


def test_a_node_list_with_brackets_is_expanded_by_scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scontrol"
    path.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    set_all(monkeypatch, SLURM_STEP_NODELIST="n[1-2]")
    assert slurm.allocated_nodes() == ["n1", "n2"] and slurm.rendezvous_point()[0] == "n1"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_slurms_short_form_of_counts_is_expanded(counts: list[int]) -> None:
    parts: list[tuple[int, int]] = []
    for count in counts:
        if parts and parts[-1][0] == count:
            parts[-1] = (count, parts[-1][1] + 1)
        else:
            parts.append((count, 1))
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in parts)
    assert slurm.tasks_per_node(text) == counts


def test_an_invalid_count_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        slurm.tasks_per_node("2,many")


def test_steps_and_attempts_of_a_job_have_different_rendezvous_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    places = set()
    for step, attempt in [("0", "0"), ("1", "0"), ("0", "1"), ("2", "3")]:
        set_all(monkeypatch, SLURM_STEP_ID=step, SLURM_RESTART_COUNT=attempt)
        places.add(slurm.rendezvous_point())
    assert len(places) == 4 and {address for address, _ in places} == {"a"}
    assert all(slurm.FIRST_PORT <= port < 32_768 for _, port in places), "below the ephemeral ports of the kernel"


def test_a_note_names_the_allocated_nodes_that_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["launch/pretrain_text.py", "--local_rank=0", "--run-dir", "my runs"]
    assert slurm.note_on_idle_nodes(command) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert slurm.note_on_idle_nodes(command) is None
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-4]")
    note = slurm.note_on_idle_nodes(command)
    assert note and "4 nodes (n[1-4])" in note
    assert note.endswith("bash launch/pretrain.sbatch launch/pretrain_text.py --run-dir 'my runs'")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert slurm.note_on_idle_nodes(command) is None, "started by srun"
