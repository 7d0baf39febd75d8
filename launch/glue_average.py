"""Print the score of each of GLUE's tasks and their average, from the results of eight fine-tuned runs, one of each task.

python launch/glue_average.py runs/text_sst2 runs/text_cola runs/text_mrpc ...
"""

import argparse
import sys

from recipes.cluster.command import exit_code_of
from recipes.finetune.glue_average import read_scores, score_lines
from recipes.values import path_argument


def main() -> int:
    """Run the command of the command line, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=path_argument, metavar="RUN", help="run dir of a fine-tuned run")
    print(*score_lines(read_scores(parser.parse_args().runs)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
