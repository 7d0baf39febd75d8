"""Fine-tune a text network on a task, and print the task's metric on the test data.

deepspeed launch/finetune_text.py --from runs/text_tiny --task classify --data DATA --run-dir runs/my_task
"""

import sys

from recipes.finetune.command import Tasks, finetune_main
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe

if __name__ == "__main__":
    sys.exit(finetune_main(__doc__, Tasks("text", TEXT_TASKS, text_recipe)))
