"""From the outputs of a CTC head to text: greedy decoding, and the text of symbols. The search over prefixes is in
recipes/scores/beam_search.py.

Shape letter: S frames.
"""

from collections.abc import Iterable, Sequence

import numpy as np

WORD_END = "|"
"""The symbol that stands for a space."""
DROPPED = frozenset({"<pad>", "<s>", "</s>", "<unk>"})
"""Symbols of an alphabet that are no letters. `<pad>` is CTC's blank."""


def greedy(best_S: np.ndarray, blank: int) -> list[int]:
    """Return the labels of the most probable alignment. `best_S`: the most probable symbol of each frame. Repeated symbols become one,
    then blanks are removed, so that a blank separates two equal labels.

    Source: Graves et al. 2006, section 3.1 (the map B) and section 3.2 (best path decoding).
    """
    best_S = np.asarray(best_S)
    is_new = np.ones(len(best_S), bool)
    is_new[1:] = best_S[1:] != best_S[:-1]
    return best_S[is_new & (best_S != blank)].tolist()


def text_of(ids: Iterable[int], alphabet: Sequence[str]) -> str:
    """Return the text of labels. `alphabet`: the symbol of each id. `|` becomes a space and special symbols are dropped. There is one
    space between words and none at the ends."""
    symbols = (alphabet[one] for one in ids)
    letters = (" " if symbol == WORD_END else symbol for symbol in symbols if symbol not in DROPPED)
    return " ".join("".join(letters).split())
