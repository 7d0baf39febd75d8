"""A scaling study, from one file: its grid of runs, their training, their results in a table, a fitted law, and a report.

python launch/scaling.py grid text_isoflop
python launch/scaling.py submit text_isoflop --local 2
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.study.command import build_parser


def main() -> int:
    """Run the verb that the command line names, and return the exit code."""
    quiet_libraries()  # preparing data imports some
    args = build_parser(__doc__ or "").parse_args()
    return int(args.run(args, print))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
