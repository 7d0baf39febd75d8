"""Print how a run spent its wall time, how its launches ended, and how often it should save.

python launch/ledger.py runs/text_base --mtbf-hours 24
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.ledger.ledger import build_parser, run_ledger

if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run_ledger(build_parser(__doc__ or "").parse_args(), print)))
