"""What the checks run on, and what is to be said of it before they begin. Torch is asked in a process of its own, since a process that
has used a device holds memory of it."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError

LEAST_GIB = 45
"""The largest batches took 39 GiB on an H200."""
FREE_SHARE = 0.95
ASK = """
import json, warnings
warnings.simplefilter("ignore")
import torch
from importlib import metadata
import deepspeed, megatron.core  # an installation that is broken is said once
facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "problem": ""}
for name in ("deepspeed", "megatron-core"):
    facts[name] = metadata.version(name)
try:
    torch.cuda.init()
    facts["devices"] = torch.cuda.device_count()
    facts["device"] = torch.cuda.get_device_name(0)
    facts["free"], facts["total"] = torch.cuda.mem_get_info(0)
    facts["cudnn"] = torch.backends.cudnn.version()
except (RuntimeError, AssertionError) as error:
    facts["problem"] = " ".join(str(error).split())[:200]
print(json.dumps(facts))
"""


def facts_of_device(device: str) -> dict[str, Any]:
    """For the head of the table, with `notes`: what may spoil the figures. Raises: ConfigError where no check could run."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"torch and DeepSpeed cannot be asked for their versions: {done.stderr.strip().splitlines()[-1]}; see docs/gpu.md"
        )
    asked = json.loads(done.stdout.splitlines()[-1])
    software = {name: asked[name] for name in ("torch", "deepspeed", "megatron-core")} | {"python": platform.python_version()}
    cores = len(os.sched_getaffinity(0))
    if device == "cpu":
        return {"device": f"cpu, {cores} cores, tiny sizes", **software, "notes": []}
    driver = driver_facts()
    if asked["problem"]:
        raise ConfigError(no_device(asked, driver))
    head = {"device": asked["device"], "devices": asked["devices"], "memory": f"{asked['total'] / 2**30:.1f} GiB", "cores": cores}
    return head | {"driver": driver, "cuda": asked["cuda"], "cudnn": asked["cudnn"]} | software | {"notes": notes(asked)}


def no_device(asked: dict[str, Any], driver: str) -> str:
    """Why torch sees none, and what to do."""
    if driver == "none":
        return f"no GPU here ({asked['problem']}); run it on a machine with one, or with --device cpu, which tries the checks themselves"
    return f"driver {driver} is there, and torch {asked['torch']} sees no device ({asked['problem']}); install a torch for that driver"


def notes(asked: dict[str, Any]) -> list[str]:
    """Of memory that others use, and of too little of it."""
    free, total = asked["free"] / 2**30, asked["total"] / 2**30
    said = []
    if free < FREE_SHARE * total:
        said.append(f"{total - free:.1f} of {total:.1f} GiB are in use by others: times are upper bounds, see nvidia-smi")
    if total < LEAST_GIB:
        said.append(f"{total:.1f} GiB of memory, the largest batches need about {LEAST_GIB}: their rows will say so")
    return said


def driver_facts() -> str:
    """Version of the NVIDIA driver, as the kernel tells it; "none" without one."""
    try:
        found = re.search(r"(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return "none"
    return found[1] if found else "unknown"
