"""Pre-train data2vec on images.

deepspeed launch/pretrain_vision.py
deepspeed launch/pretrain_vision.py --recipe vision_base --data imagenet-1k --set run.max_steps=100000
"""

import sys

from recipes.finetune.probe_source import FrozenFeatures
from recipes.train.cli import pretrain_main
from recipes.vision import RECIPES

if __name__ == "__main__":
    sys.exit(pretrain_main(__doc__ or "", RECIPES, default="vision_tiny", probes=FrozenFeatures()))
