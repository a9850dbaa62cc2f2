"""What the labels of a classifier tell: the problem, the names, the targets."""

import numpy as np
import pytest

from trine.training.objectives.labels import LabelSet, OneClass, Value, find_problem


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["b", "a"], "single_label_classification"),
        ([1, 0, True], "single_label_classification"),
        ([0, 1, 0.5], "regression"),
        ([[], ["a"]], "multi_label_classification"),
    ],
)
def test_the_problem_is_found(labels, problem):
    assert find_problem(labels) == problem


def test_labels_of_other_kinds():
    with pytest.raises(ValueError, match=r"label_field='label' holds \['a list', 'str'\] together: choose problem"):
        find_problem(["a", ["b"]])
    with pytest.raises(ValueError, match="the list of labels holds 1.5, which is neither"):
        LabelSet.read(["a", 1.5])
    for value in ("much", "nan", float("inf")):
        with pytest.raises(ValueError, match=f"the label {value!r} is not a finite number"):
            Value.read(value)


def test_names_are_sorted_integers_by_size():
    assert OneClass([10, 9, 2, 9]).names == ["2", "9", "10"]
    assert OneClass(["10", 9, "2"]).names == ["10", "2", "9"]


def test_targets_and_answers():
    classes, sets, values = OneClass(["b", "a"]), LabelSet([["b"], ["a"]]), Value([1.5])
    assert (classes.target("b"), sets.target(["b"]), values.target("2")) == (1, [0.0, 1.0], 2.0)
    logits = np.array([[-1.0, 2.0], [3.0, 1.0]])
    assert classes.predict(logits).tolist() == [1, 0]
    assert sets.predict(logits).tolist() == [[0, 1], [1, 1]]
    assert values.predict(logits[:, :1]).tolist() == [-1.0, 3.0]
    assert (classes.unknown("c"), sets.unknown(["a", "c"]), values.unknown(3)) == ({"c"}, {"c"}, set())


def test_files_without_a_record_are_told():
    with pytest.raises(ValueError, match="No record has a label in the field 'mood': is the file empty"):
        OneClass([], label_field="mood")
