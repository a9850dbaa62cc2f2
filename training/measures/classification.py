"""Measures of predicted classes, sets of labels and values."""

# Shapes: N examples, C classes.

import numpy as np
from numpy.typing import ArrayLike


def confusion_matrix(expected: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """Counts (C, C) of class indices (N,): how often each class (row) was predicted as each (column)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (np.asarray(expected), np.asarray(predicted)), 1)
    return matrix


def f1_scores(hits: ArrayLike, expected: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """`2 hits / (expected + predicted)` of counts (C,); NaN for a class that is neither expected nor predicted."""
    total = np.asarray(expected, dtype=float) + np.asarray(predicted)
    return np.divide(2.0 * np.asarray(hits), total, out=np.full(total.shape, np.nan), where=total > 0)


def class_metrics(expected: ArrayLike, predicted: ArrayLike, classes: int) -> dict[str, float]:
    """Accuracy, and the mean F1 of the classes that occur, of class indices (N,)."""
    matrix = confusion_matrix(expected, predicted, classes)
    f1 = f1_scores(matrix.diagonal(), matrix.sum(1), matrix.sum(0))
    return {"accuracy": float(matrix.trace() / matrix.sum()), "macro_f1": float(np.nanmean(f1))}


def label_set_metrics(expected: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Accuracy of whole sets of labels, and micro and macro F1, from zeros and ones (N, C).

    `macro_f1` is the mean over the labels that occur. Where no label occurs at all, both are 1: nothing was missed.
    """
    expected, predicted = np.asarray(expected, dtype=bool), np.asarray(predicted, dtype=bool)
    hits = expected & predicted
    micro = f1_scores([hits.sum()], [expected.sum()], [predicted.sum()])
    labels = f1_scores(hits.sum(0), expected.sum(0), predicted.sum(0))
    return {
        "accuracy": float((expected == predicted).all(1).mean()),
        "micro_f1": float(np.nan_to_num(micro, nan=1.0)[0]),
        "macro_f1": 1.0 if np.isnan(labels).all() else float(np.nanmean(labels)),
    }


def value_metrics(expected: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Root of the mean squared error, and mean absolute error, of values (N,), in their unit."""
    error = np.asarray(predicted, dtype=float) - np.asarray(expected, dtype=float)
    return {"rmse": float(np.sqrt((error**2).mean())), "mae": float(np.abs(error).mean())}
