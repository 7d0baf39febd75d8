"""Measure what frozen features contain, compared with the same network at random initialisation.

python launch/probe.py --from runs/text_tiny --task cloze
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.finetune.probe import build_parser, run_probe

if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run_probe(build_parser(__doc__ or "").parse_args())))
