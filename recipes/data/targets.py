"""What a supervised loss needs of a label column: classes as numbers, numbers, or transcripts as letters. Reads no data; the kind of target
comes from the recipe's objective.

Shapes: N samples.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from recipes.data.labels import class_name, is_missing
from recipes.errors import ConfigError
from recipes.supervised_config import SPECIAL_LETTERS, ClassifyConfig, CtcConfig, RegressConfig, SupervisedConfig

NAMED = 5
"""Maximum number of labels or letters that a message names."""
OBJECTIVE_LABELS, OBJECTIVE_WEIGHTS, OBJECTIVE_ALPHABET = "objective.labels", "objective.class_weights", "objective.alphabet"
WORD_END, UNKNOWN = "|", "<unk>"


class TargetKind(Protocol):
    """One kind of target. It is made from the labels of the training split."""

    what: str
    """What `unknown` of encode() collects, for messages."""

    def parse(self, cell: Any, names: Sequence[str] | None) -> Any:
        """Return the label in a cell of the label column; None if it is empty. `names`: of numbered classes. Raises: ConfigError if it is
        no label of this kind."""

    def fit(self, labels: Sequence[Any]) -> Mapping[str, Any]:
        """Read the labels of the training split. Return the settings that they determine, by their dotted names. Raises: ConfigError if
        nothing can be learned from them."""

    def encode(self, label: Any, unknown: list[str]) -> Any:
        """Return what the loss gets for a label. What the training split does not have is added to `unknown`."""

    def complain(self, found: str) -> str:
        """Act on unknown labels in a split, which `found` describes. Return the line that says how they are read. Raises: ConfigError if
        they cannot be."""


class ClassTargets:
    """Classes. A label is a name, its target the number of the name. Implements TargetKind."""

    what = "classes that the training split lacks"

    def __init__(self, config: ClassifyConfig) -> None:
        self._config, self._numbers = config, {name: number for number, name in enumerate(config.labels)}

    def parse(self, cell: Any, names: Sequence[str] | None) -> str | None:
        """Return the class's name."""
        return class_name(cell, names)

    def fit(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return objective.labels, sorted, and objective.class_weights if objective.balanced is set. Raises: ConfigError if there is one
        class only, if a class is not in objective.labels, or if weights are given that fit neither the classes nor objective.balanced."""
        counts = Counter(labels)
        if len(counts) < 2:
            raise ConfigError(f"all {len(labels)} training samples are of one class, {labels[0]!r}; give data with two or more")
        if not self._config.labels:
            self._numbers = {name: number for number, name in enumerate(sorted(counts, key=_natural))}
        unknown = [name for name in counts if name not in self._numbers]
        if unknown:
            raise ConfigError(
                f"class {unknown[0]!r} of {counts[unknown[0]]} training samples is not in {OBJECTIVE_LABELS}, which has "
                f"{len(self._numbers)} classes; the data have {len(counts)}"
            )
        found: dict[str, Any] = {OBJECTIVE_LABELS: tuple(self._numbers)}
        if self._config.balanced and self._config.class_weights:
            raise ConfigError(f"objective.balanced computes {OBJECTIVE_WEIGHTS}, which are given; leave one of the two out")
        if self._config.balanced:
            weights = (len(labels) / (len(counts) * counts[name]) if counts[name] else 0.0 for name in self._numbers)
            found[OBJECTIVE_WEIGHTS] = tuple(weights)
        elif self._config.class_weights and len(self._config.class_weights) != len(self._numbers):
            raise ConfigError(
                f"{OBJECTIVE_WEIGHTS} has {len(self._config.class_weights)} values for {len(self._numbers)} classes; one each"
            )
        return found

    def encode(self, label: str, unknown: list[str]) -> int:
        """Return the number of the class; -1 for an unknown one."""
        if label not in self._numbers:
            unknown.append(label)
        return self._numbers.get(label, -1)

    def complain(self, found: str) -> str:
        """Raise: a class that was never trained cannot be predicted."""
        raise ConfigError(f"{found}; remove these samples, or train on data that have them")


def _natural(name: str) -> tuple[bool, float, str]:
    """Sort numbers by value, before names."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


class NumberTargets:
    """Numbers. Implements TargetKind."""

    what = "numbers"

    def __init__(self, config: RegressConfig) -> None:
        """`config` is not read: the target has no settings."""

    def parse(self, cell: Any, names: Sequence[str] | None) -> float | None:
        """Return the number. Raises: ConfigError if the cell is no finite number."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return None
        try:
            number = float(cell)
        except (TypeError, ValueError):
            raise ConfigError(f"{cell!r} is no number; regression needs one, --task classify takes classes") from None
        if not math.isfinite(number):
            raise ConfigError(f"{number} is no number to learn; remove the row or leave its cell empty")
        return number

    def fit(self, labels: Sequence[float]) -> dict[str, Any]:
        """Return {}: numbers determine no setting. Raises: ConfigError if all are equal."""
        if len(set(labels)) < 2:
            raise ConfigError(f"all {len(labels)} training samples have the number {labels[0]:g}; give data with different ones")
        return {}

    def encode(self, label: float, unknown: list[str]) -> float:
        """Return the number. None is unknown."""
        return label

    def complain(self, found: str) -> str:
        """Never called: no number is unknown."""
        raise AssertionError(found)


class TranscriptTargets:
    """Transcripts. A target is the list of its letters' numbers, with `|` between words. Implements TargetKind."""

    what = "letters that objective.alphabet lacks"

    def __init__(self, config: CtcConfig) -> None:
        self._config, self._numbers = config, {letter: number for number, letter in enumerate(config.alphabet)}

    def parse(self, cell: Any, names: Sequence[str] | None) -> str | None:
        """Return the transcript with single blanks between words."""
        return None if is_missing(cell) else " ".join(str(cell).split())

    def fit(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return objective.alphabet: the special symbols, then the letters of the training transcripts, sorted. With a given alphabet,
        letters outside of it become `<unk>`."""
        if not self._config.alphabet:
            letters = sorted(set("".join(labels)) - {" ", *SPECIAL_LETTERS})
            self._numbers = {letter: number for number, letter in enumerate((*SPECIAL_LETTERS, *letters))}
        return {OBJECTIVE_ALPHABET: tuple(self._numbers)}

    def encode(self, label: str, unknown: list[str]) -> list[int]:
        """Return the numbers of the letters. A letter that the alphabet lacks becomes `<unk>`."""
        letters = label.replace(" ", WORD_END)
        unknown += [letter for letter in letters if letter not in self._numbers]
        return [self._numbers.get(letter, self._numbers[UNKNOWN]) for letter in letters]

    def complain(self, found: str) -> str:
        """Return the line that names the letters."""
        return f"{found}; each is read as {UNKNOWN}"


MAKERS: Mapping[type[SupervisedConfig], Callable[[Any], TargetKind]] = {
    ClassifyConfig: ClassTargets,
    RegressConfig: NumberTargets,
    CtcConfig: TranscriptTargets,
}


def targets_of(config: Any) -> TargetKind:
    """Return the kind of target that the recipe's section `objective` learns from, still without labels."""
    make = next(make for kind, make in MAKERS.items() if isinstance(config, kind))
    return make(config)


def named(unknown: Sequence[str]) -> str:
    """Return the most frequent of some unknown labels or letters, as text: 'x' (3 times), ..."""
    counts = Counter(unknown)
    shown = ", ".join(f"{name!r} ({times} times)" for name, times in counts.most_common(NAMED))
    return shown + (", ..." if len(counts) > NAMED else "")
