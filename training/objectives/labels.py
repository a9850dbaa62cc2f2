"""The three problems of a text classifier: one class, a set of labels, or a value.

A problem is made of the labels of all training examples. It turns labels into targets and logits into answers, and
measures them. All have the same methods.
"""

# Shapes: N examples, C labels. Targets and answers are (N,) for classes and values, (N, C) of 0 and 1 for sets.

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..measures.classification import class_metrics, label_set_metrics, value_metrics


class OneClass:
    """A text has one of the labels, which are texts or integers.

    Attributes:
        names: The labels in the order of their indices: by their letters, or by size where all are integers.
        types: Types that a label may have in a record.
        scores: The names of what `measure` returns.
        loss_unit: The unit of the model's loss.

    Args:
        labels: Those of all training examples.
        label_field: The name of the label in a record, for messages.

    Raises:
        ValueError: There are fewer than two labels.
    """

    types = (str, int)
    loss_unit = "nats per text"
    scores = ("accuracy", "macro_f1")

    def __init__(self, labels: Sequence[Any], label_field: str = "label"):
        found = {str(label): label for label in labels}
        whole = all(isinstance(label, int) for label in labels)
        self.names = sorted(found, key=found.__getitem__ if whole else None)
        self.index = {name: number for number, name in enumerate(self.names)}
        if not self.names:
            raise ValueError(f"No record has a label in the field '{label_field}': is the file empty?")
        if len(self.names) < 2:
            raise ValueError(f"label_field='{label_field}' has the labels {self.names}; two at least are needed.")

    @staticmethod
    def read(label: Any) -> str | int:
        """The label of a record, as it is."""
        return label

    @staticmethod
    def stratum(label: Any) -> Any:
        """The group of which training and validation get equal shares: the class."""
        return str(label)

    def unknown(self, label: Any) -> set[str]:
        """The names in a label that no training example has."""
        return {str(label)} - self.index.keys()

    def target(self, label: Any) -> int:
        """The index of a label. Raises a KeyError for an unknown one."""
        return self.index[str(label)]

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """The most likely class (N,) by logits (N, C)."""
        return logits.argmax(-1)

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        """The best answer that ignores the text, the most frequent class, with a description."""
        return "most frequent", Counter(targets).most_common(1)[0][0]

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Accuracy and macro F1 of classes (N,), from 0 to 1."""
        return class_metrics(expected, predicted, len(self.names))


class LabelSet(OneClass):
    """A text has any number of the labels; a label is a list of their names. Arguments and errors as `OneClass`."""

    types = (list,)
    loss_unit = "nats per label"
    scores = ("accuracy", "micro_f1", "macro_f1")

    def __init__(self, labels: Sequence[list[Any]], label_field: str = "label"):
        super().__init__([name for names in labels for name in names], label_field)

    @staticmethod
    def read(label: list[Any]) -> list[Any]:
        """The labels of a record. Raises a ValueError for one that is neither a text nor an integer."""
        if strange := [item for item in label if not isinstance(item, (str, int))]:
            raise ValueError(f"the list of labels holds {strange[0]!r}, which is neither a text nor an integer")
        return label

    @staticmethod
    def stratum(label: Any) -> None:
        """All sets are of one stratum."""
        return None

    def unknown(self, label: Any) -> set[str]:
        """The names in a label that no training example has."""
        return set(map(str, label)) - self.index.keys()

    def target(self, label: Any) -> list[float]:
        """C numbers: 1 for the names in the label, 0 for the others."""
        chosen = set(map(str, label))
        return [float(name in chosen) for name in self.names]

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) to zeros and ones: the labels that are likelier than not."""
        return (logits > 0).astype(int)

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        """The best answer that ignores the text, the most frequent set, with a description."""
        return "most frequent", Counter(map(tuple, targets)).most_common(1)[0][0]

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Accuracy of whole sets, and micro and macro F1 of labels, of zeros and ones (N, C)."""
        return label_set_metrics(expected, predicted)


class Value:
    """A text has a value, such as a number of stars. `names` is that of the value alone; arguments as `OneClass`."""

    types = (int, float, str)  # CSV has texts only
    loss_unit = "squared error"
    scores = ("rmse", "mae")

    def __init__(self, labels: Sequence[float], label_field: str = "label"):
        self.names = [label_field]

    @staticmethod
    def read(label: Any) -> float:
        """The value of a record. Raises a ValueError for what is not a finite number."""
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"the label {label!r} is not a finite number")
        return value

    @staticmethod
    def stratum(label: Any) -> None:
        """All values are of one stratum."""
        return None

    def unknown(self, label: Any) -> set[str]:
        """No value is unknown."""
        return set()

    def target(self, label: Any) -> float:
        """The value itself."""
        return float(label)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """The values (N,) that are the logits (N, 1)."""
        return logits[:, 0]

    def constant(self, targets: Sequence[Any]) -> tuple[str, Any]:
        """The best answer that ignores the text, the mean, with a description."""
        return "mean", float(np.mean(targets))

    def measure(self, expected: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Root of the mean squared error, and mean absolute error, of values (N,)."""
        return value_metrics(expected, predicted)


# By the `problem_type` of a config.
PROBLEMS: dict[str, Any] = {
    "single_label_classification": OneClass,
    "multi_label_classification": LabelSet,
    "regression": Value,
}


def find_problem(labels: Sequence[Any], label_field: str = "label") -> str:
    """The `problem_type` of labels: lists are sets, one number with a point makes all values, others are classes.

    Args:
        labels: Those of all examples.
        label_field: The name of the label in a record, for messages.

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
        f"label_field='{label_field}' holds {sorted(kinds)} together: choose problem_type from {[*PROBLEMS]}."
    )
