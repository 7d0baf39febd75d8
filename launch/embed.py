"""Write the embeddings of texts, recordings or images to a file, computed by a trained network on one process or many.

python launch/embed.py --from runs/text_tiny --data reviews.txt --out embeddings.parquet
deepspeed launch/embed.py --from runs/speech_tiny --data recordings/ --layer 3 --out embeddings.npz
"""

import sys

from recipes.cluster.command import exit_code_of
from recipes.interop.embed import build_parser, run_embed

if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run_embed(build_parser(__doc__ or "").parse_args(), print)))
