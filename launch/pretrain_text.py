"""Pre-train data2vec on text.

deepspeed launch/pretrain_text.py
deepspeed launch/pretrain_text.py --recipe text_base --data wikimedia/wikipedia:20231101.en --set run.max_steps=100000
"""

import sys

from recipes.finetune.probe_source import FrozenFeatures
from recipes.text import RECIPES
from recipes.train.cli import pretrain_main

if __name__ == "__main__":
    sys.exit(pretrain_main(__doc__ or "", RECIPES, default="text_tiny", probes=FrozenFeatures()))
