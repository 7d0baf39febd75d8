"""Device and software that the checks run on, and notes about them. Torch is queried in a separate process, since a process that has
used a device keeps memory on it."""

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
"""Device memory that the largest batches need. They took 39 GiB on an H200."""
FREE_SHARE = 0.95
QUERY = """
import json, warnings
warnings.simplefilter("ignore")
import torch
from importlib import metadata
import deepspeed, megatron.core  # so that a broken installation is reported once, here
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


def device_info(device: str) -> dict[str, Any]:
    """Return the head of the table. Its `notes` are what may make the figures wrong. Raises: ConfigError if no check could run."""
    done = subprocess.run([sys.executable, "-c", QUERY], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"the versions of torch and DeepSpeed cannot be read: {done.stderr.strip().splitlines()[-1]}; see docs/gpu.md")
    info = json.loads(done.stdout.splitlines()[-1])
    software = {name: info[name] for name in ("torch", "deepspeed", "megatron-core")} | {"python": platform.python_version()}
    cores = len(os.sched_getaffinity(0))
    if device == "cpu":
        return {"device": f"cpu, {cores} cores, tiny sizes", **software, "notes": []}
    driver = driver_version()
    if info["problem"]:
        raise ConfigError(no_device(info, driver))
    head = {"device": info["device"], "devices": info["devices"], "memory": f"{info['total'] / 2**30:.1f} GiB", "cores": cores}
    return head | {"driver": driver, "cuda": info["cuda"], "cudnn": info["cudnn"]} | software | {"notes": notes(info)}


def no_device(info: dict[str, Any], driver: str) -> str:
    """Return the message that explains why torch sees no device, with the remedy."""
    if driver == "none":
        return f"no GPU here ({info['problem']}); run it on a machine with one, or with --device cpu, which tries the checks themselves"
    return f"driver {driver} is there, and torch {info['torch']} sees no device ({info['problem']}); install a torch for that driver"


def notes(info: dict[str, Any]) -> list[str]:
    """Return notes on memory that other processes use, and on too little memory."""
    free, total = info["free"] / 2**30, info["total"] / 2**30
    found = []
    if free < FREE_SHARE * total:
        found.append(f"{total - free:.1f} of {total:.1f} GiB are in use by others: times are upper bounds, see nvidia-smi")
    if total < LEAST_GIB:
        found.append(f"{total:.1f} GiB of memory, the largest batches need about {LEAST_GIB}: their rows will say so")
    return found


def driver_version() -> str:
    """Return the version of the NVIDIA driver from /proc; "none" without a driver."""
    try:
        found = re.search(r"(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return "none"
    return found[1] if found else "unknown"
