"""Fine-tune a vision network on classes of images, and print its accuracy on the test data.

deepspeed launch/finetune_vision.py --from runs/vision_tiny --task classify --data DATA --run-dir runs/my_task
"""

import sys

from recipes.finetune.command import Tasks, finetune_main
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe

if __name__ == "__main__":
    sys.exit(finetune_main(__doc__, Tasks("vision", VISION_TASKS, vision_recipe)))
