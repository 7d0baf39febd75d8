"""The allocator's first phase: freed blocks are returned to the system while engines are built."""

import subprocess
import sys

SCRIPT = """
import torch
from recipes.engine.allocator import returning_memory

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
with returning_memory():
    blocks = [torch.ones(1 << 18) for _ in range(200)]  # 1 MB each, 200 MB
    keep = blocks[-1]
    full = resident()
    del blocks
    freed = resident()
print((full - before) >> 20, (freed - before) >> 20)
"""


def test_freed_layers_are_returned_to_the_system_while_building() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    full, freed = map(int, done.stdout.split())
    assert full >= 180 and freed <= 40, done.stdout
