"""Convert raw data to a prepared folder, which --data takes. Can run on a login node before the job starts.

python launch/prepare.py text --recipe text_base --data corpus/ --out prepared/corpus
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.train.prepare import build_parser, run_prepare

if __name__ == "__main__":
    quiet_libraries()
    sys.exit(exit_code_of(lambda: run_prepare(build_parser(__doc__ or "").parse_args())))
