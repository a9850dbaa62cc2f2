"""Two views of one text."""

import random

import pytest

from trine.training.objectives.views import VIEWS, crop_twice


@pytest.mark.parametrize(
    ("text", "blank"), [(" ".join(map(str, range(100, 140))), " "), ("天地玄黄宇宙洪荒日月盈昃", "")]
)
def test_crops_are_spans_of_a_part_of_the_text(text, blank):
    count, generator = len(text.split(" ")) if blank else len(text), random.Random(0)
    lengths = set()
    for _ in range(200):
        for crop in crop_twice(text, generator):
            assert f"{blank}{crop}{blank}" in f"{blank}{text}{blank}"
            lengths.add(len(crop.split(" ")) if blank else len(crop))
    assert min(lengths) == round(0.3 * count) and max(lengths) == round(0.7 * count)


def test_short_texts_stay_texts_and_seeds_repeat():
    generator = random.Random(1)
    assert all(all(view.strip() for view in VIEWS[name](text, generator)) for name in VIEWS for text in ("a", " b c "))
    assert VIEWS["dropout"]("a text", generator) == ("a text", "a text")
    text = "one two three four five six"
    assert crop_twice(text, random.Random(5)) == crop_twice(text, random.Random(5))
