"""Plan a run before it is submitted: memory, time, batch, cost and interruptions, and the layouts of the run that are fastest.

python launch/plan.py --recipe text_large --deepspeed_config zero3_bf16 --cluster nodes=4,gpus=8,device=h100
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.planner.command import build_parser, run_plan

if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run_plan(build_parser(__doc__ or "").parse_args(), print)))
