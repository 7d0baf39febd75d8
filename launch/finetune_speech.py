"""Fine-tune a speech network on recordings with transcripts (ctc) or classes (classify), and print the metric on the test data.

deepspeed launch/finetune_speech.py --from runs/speech_base --task ctc --data DATA --run-dir runs/my_task

With --from RUN, --recipe base_10m, base_1h, base_10h, base_100h or base_960h (Large: vox_10m to vox_960h) takes the numbers that are
published for this part of LibriSpeech. With --from random, --recipe names the network: speech_tiny, speech_base or speech_large.
"""

import sys

from recipes.finetune.command import Tasks, finetune_main
from recipes.finetune.speech_tasks import PUBLISHED, SPEECH_TASKS, speech_recipe

if __name__ == "__main__":
    sys.exit(finetune_main(__doc__, Tasks("speech", SPEECH_TASKS, speech_recipe, PUBLISHED)))
