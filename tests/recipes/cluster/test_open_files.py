"""The limit on open files is raised if it is too low, and a run with more ranks than it allows is refused before anything connects."""

import os
import re
import resource

import pytest
import torch.distributed as dist

from recipes.cluster import open_files
from recipes.cluster.open_files import RESERVE, require_open_files
from recipes.cluster.world import join_world
from recipes.errors import LocalError
from tests.distributed import run_distributed

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 4096, None),
        (512, 4096, (512 + RESERVE, 4096)),
        (512, INFINITE, (512 + RESERVE, INFINITE)),
        (INFINITE, INFINITE, None),
        (512, 512 + RESERVE, (512 + RESERVE, 512 + RESERVE)),
    ],
)
def test_a_low_soft_limit_is_raised_to_what_512_ranks_need(
    soft: int, hard: int, raised: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger limit stays: some libraries walk through all numbers up to it."""
    calls = list[tuple[int, int]]()
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda kind, limits: calls.append(limits))
    require_open_files(512)
    assert calls == ([] if raised is None else [raised])


def test_too_low_a_hard_limit_is_one_line_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda kind: (512, 767))
    message = re.escape("512 ranks need 768 open files in a process, and ") + r"\S+ allows 767 \(ulimit -Hn\); "
    with pytest.raises(LocalError, match=message):
        require_open_files(512)


def join_with_few_files() -> tuple[str, bool]:
    """Join with a limit that is too low for two ranks. Return the error, and whether there is a process group."""
    dist.destroy_process_group()
    resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVE, RESERVE))
    try:
        join_world()
    except LocalError as error:
        return str(error), dist.is_initialized()
    return "joined", dist.is_initialized()


def test_every_rank_refuses_before_it_connects() -> None:
    said = f"2 ranks need {RESERVE + 2} open files in a process, and {os.uname().nodename} allows {RESERVE} (ulimit -Hn); "
    found = run_distributed(join_with_few_files, 2)
    assert [(text[: len(said)], connected) for text, connected in found] == [(said, False)] * 2
