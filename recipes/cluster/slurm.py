"""What Slurm's variables and commands say about this process: its place among the tasks that one srun started (a step), and the names of
nodes. Torch-free."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

FIRST_PORT, NUM_PORTS = 20_000, 12_000
"""Ports for the ranks to join, below the ephemeral ports of the kernel (from 32768 on)."""


class Task(NamedTuple):
    """One process among those that one srun started: its rank and their number, over all nodes and on its own node (local)."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def is_in_step() -> bool:
    """True if `srun` started this process or a parent of it. False in a batch script itself, which has SLURM_PROCID too."""
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ


def task() -> Task:
    """Return this process's rank and the number of processes that its srun started. Raises: ValueError, KeyError if the variables are
    not as Slurm sets them."""
    env = os.environ
    node, sizes = int(env["SLURM_NODEID"]), tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])
    if not 0 <= node < len(sizes):
        raise ValueError(f"SLURM_NODEID {node}, but SLURM_STEP_TASKS_PER_NODE has {len(sizes)} nodes")
    return Task(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]), sizes[node])


def tasks_per_node(text: str) -> list[int]:
    """Return the tasks on each node, from Slurm's short form: "2(x3),1" -> [2, 2, 2, 1]. Raises: ValueError."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ValueError(text)
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def rendezvous_point() -> tuple[str, int]:
    """Return host name and port at which the processes of one srun can find each other: the node of its first task, and a port that
    depends on job, restart and step. Raises: KeyError, ValueError, OSError, CalledProcessError."""
    env = os.environ
    job, step, attempt = (int(env.get(f"SLURM_{name}", "0")) for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return host_names(env["SLURM_STEP_NODELIST"])[0], FIRST_PORT + (10 * job + attempt + 7 * (step + 1)) % NUM_PORTS


def allocated_nodes() -> list[str]:
    """Return the names of the nodes that this process's srun uses; [] if srun did not start it. May run scontrol."""
    return host_names(os.environ["SLURM_STEP_NODELIST"]) if is_in_step() and "SLURM_STEP_NODELIST" in os.environ else []


def note_on_idle_nodes(command: Sequence[str]) -> str | None:
    """Return a note for the user if `command` was started without srun in a Slurm job of several nodes, so that it uses only one; None
    otherwise."""
    env = os.environ
    count = env.get("SLURM_JOB_NUM_NODES", "1")
    if is_in_step() or "SLURM_JOB_ID" not in env or not count.isdecimal() or int(count) < 2:
        return None
    words = shlex.join(word for word in command if not word.startswith("--local_rank="))
    return (
        f"note: this allocation has {count} nodes ({env.get('SLURM_JOB_NODELIST')}), and a launcher that srun has not started uses only "
        f"the one it runs on; for all of them: bash launch/pretrain.sbatch {words}"
    )


def node_name() -> str:
    """Return the name of this machine: the one that Slurm gives it, or else its host name."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def host_names(node_list: str) -> list[str]:
    """Return the names in Slurm's short form of a node list: "node[1-2]" -> ["node1", "node2"]. Runs scontrol only if there are
    brackets."""
    if "[" not in node_list:
        return node_list.split(",")
    return subprocess.run(["scontrol", "show", "hostnames", node_list], check=True, capture_output=True, text=True).stdout.split()
