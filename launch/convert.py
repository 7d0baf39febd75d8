"""Print what is in a checkpoint (inspect), write its student or teacher as one file of whole tensors (consolidate) or as a Hugging Face
directory (export), or make a run dir of another project's model (import).

python launch/convert.py inspect runs/text_tiny
"""

import argparse
import sys

from recipes.checkpoint import inspect
from recipes.cluster.command import exit_code_of
from recipes.interop import consolidate, export, import_command, weights_run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it before the command
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (inspect, consolidate, weights_run, export, import_command):
        module.add_command(commands)

    def convert() -> int:
        """Run the sub-command of the command line."""
        args = parser.parse_args()
        return args.run(args, print)

    sys.exit(exit_code_of(convert))
