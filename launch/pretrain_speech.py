"""Pre-train data2vec on recordings.

deepspeed launch/pretrain_speech.py
deepspeed launch/pretrain_speech.py --recipe speech_base --data LibriSpeech/ --set run.max_steps=100000
"""

import sys

from recipes.finetune.probe_source import FrozenFeatures
from recipes.speech import RECIPES
from recipes.train.cli import pretrain_main

if __name__ == "__main__":
    sys.exit(pretrain_main(__doc__ or "", RECIPES, default="speech_tiny", probes=FrozenFeatures()))
