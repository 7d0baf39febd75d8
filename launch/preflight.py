"""Check the nodes of a job: versions, devices, speed, disk, clock. Names the node that differs. The first step of a job.

srun --ntasks-per-node=1 python launch/preflight.py --run-dir runs/wiki
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.cluster.preflight.command import build_parser, run_preflight

if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run_preflight(build_parser(__doc__ or "").parse_args(), lambda line: print(line, flush=True))))
