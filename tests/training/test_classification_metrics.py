"""Scores of classifiers, by hand and beside scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from trine.training.measures.classification import (
    class_metrics,
    confusion_matrix,
    f1_scores,
    label_set_metrics,
    value_metrics,
)


def test_classes_by_hand():
    expected, predicted = [0, 0, 0, 1, 2], [0, 0, 1, 1, 0]
    assert confusion_matrix(expected, predicted, 4).tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0] * 4]
    # F1: 2*2/(3+3), 2*1/(1+2), 0/(1+0); class 3 does not occur
    scores = class_metrics(expected, predicted, 4)
    assert scores == pytest.approx({"accuracy": 3 / 5, "macro_f1": (2 / 3 + 2 / 3 + 0) / 3})


@pytest.mark.parametrize("seed", range(3))
def test_classes_beside_scikit_learn(seed):
    random = np.random.default_rng(seed)
    expected, predicted = random.integers(0, 5, 60), random.integers(1, 7, 60)
    scores = class_metrics(expected, predicted, 8)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(expected, predicted))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(expected, predicted, average="macro", zero_division=0))


def test_label_sets_beside_scikit_learn():
    random = np.random.default_rng(0)
    expected, predicted = random.integers(0, 2, (2, 50, 4))
    scores = label_set_metrics(expected, predicted)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(expected, predicted))
    for average in ("micro", "macro"):
        assert scores[f"{average}_f1"] == pytest.approx(metrics.f1_score(expected, predicted, average=average))


def test_label_sets_by_hand():
    # the second label is never expected nor predicted, the third is predicted once in vain
    scores = label_set_metrics([[1, 0, 0], [1, 0, 0]], [[1, 0, 1], [0, 0, 0]])
    assert scores == pytest.approx({"accuracy": 0, "micro_f1": 2 / (2 + 2), "macro_f1": (2 / (2 + 1) + 0) / 2})
    assert label_set_metrics([[0, 0]], [[0, 0]]) == {"accuracy": 1.0, "micro_f1": 1.0, "macro_f1": 1.0}


def test_f1_of_nothing_is_no_number():
    assert np.isnan(f1_scores([0], [0], [0])).all()


def test_values_by_hand():
    assert value_metrics([1.0, 2.0, 3.0], [1.0, 4.0, 2.0]) == pytest.approx({"rmse": (5 / 3) ** 0.5, "mae": 1.0})
