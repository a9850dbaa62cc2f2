"""The three problems of a text classifier: one class, a set of labels, or a value."""

# Shapes: N examples, C labels.

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..measures.classification import class_metrics, label_set_metrics, value_metrics


class OneClass:
    """A text has one of the labels, which are texts or integers."""

    types = (str, int)
    loss_unit = "nats per text"
    scores = ("accuracy", "macro_f1")

    def __init__(self, field: str, labels: Sequence[Any]):
        found = {str(label): label for label in labels}
        whole = all(isinstance(label, int) for label in labels)
        self.names = sorted(found, key=found.__getitem__ if whole else None)
        self.index = {name: number for number, name in enumerate(self.names)}
        if len(self.names) < 2:
            raise ValueError(f"label_field='{field}' has the labels {self.names}; two at least are needed.")

    @staticmethod
    def read(label: Any) -> str | int:
        return label

    @staticmethod
    def stratum(label: Any) -> Any:
        """What training and validation have equal shares of."""
        return str(label)

    def unknown(self, label: Any) -> set[str]:
        return {str(label)} - self.index.keys()

    def target(self, label: Any) -> int:
        return self.index[str(label)]

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) to (N,)."""
        return logits.argmax(-1)

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        """The most frequent class, and what it is called."""
        return "most frequent", Counter(targets).most_common(1)[0][0]

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        return class_metrics(expected, predicted, len(self.names))


class LabelSet(OneClass):
    """A text has any number of the labels."""

    types = (list,)
    loss_unit = "nats per label"
    scores = ("accuracy", "micro_f1", "macro_f1")

    def __init__(self, field: str, labels: Sequence[list[Any]]):
        super().__init__(field, [name for names in labels for name in names])

    @staticmethod
    def read(label: list[Any]) -> list[Any]:
        if strange := [item for item in label if not isinstance(item, (str, int))]:
            raise ValueError(f"the list of labels holds {strange[0]!r}, which is neither a text nor an integer")
        return label

    @staticmethod
    def stratum(label: Any) -> None:
        return None

    def unknown(self, label: Any) -> set[str]:
        return set(map(str, label)) - self.index.keys()

    def target(self, label: Any) -> list[float]:
        chosen = set(map(str, label))
        return [float(name in chosen) for name in self.names]

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) to zeros and ones: the labels that are likelier than not."""
        return (logits > 0).astype(int)

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        """The most frequent set, and what it is called."""
        return "most frequent", Counter(map(tuple, targets)).most_common(1)[0][0]

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        return label_set_metrics(expected, predicted)


class Value:
    """A text has a value."""

    types = (int, float, str)  # CSV has texts only
    loss_unit = "squared error"
    scores = ("rmse", "mae")

    def __init__(self, field: str, labels: Sequence[float]):
        self.names = [field]

    @staticmethod
    def read(label: Any) -> float:
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"the label {label!r} is not a finite number")
        return value

    @staticmethod
    def stratum(label: Any) -> None:
        return None

    def unknown(self, label: Any) -> set[str]:
        return set()

    def target(self, label: Any) -> float:
        return float(label)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """(N, 1) to (N,)."""
        return logits[:, 0]

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        return "mean", float(np.mean(targets))

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        return value_metrics(expected, predicted)


PROBLEMS: dict[str, Any] = {
    "single_label_classification": OneClass,
    "multi_label_classification": LabelSet,
    "regression": Value,
}


def find_problem(field: str, labels: Sequence[Any]) -> str:
    """The problem that labels are of: lists are sets, one number with a point makes all values, others are classes.

    Raises:
        ValueError: The labels are of kinds that do not go together.
    """
    kinds = {"a list" if isinstance(label, list) else type(label).__name__ for label in labels}
    if kinds == {"a list"}:
        return "multi_label_classification"
    if "float" in kinds and kinds <= {"float", "int"}:
        return "regression"
    if kinds <= {"str", "int", "bool"}:
        return "single_label_classification"
    raise ValueError(
        f"label_field='{field}' holds {sorted(kinds)} together: choose --problem_type from {[*PROBLEMS]}."
    )
