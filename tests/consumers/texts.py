"""A small language that tiny models learn in a few steps, and records made of it."""

from itertools import product


ANIMALS = ("fox", "dog", "cat", "bird", "horse")
DEEDS = ("sees", "likes", "hears")
COLOURS = ("red", "blue", "green")
SENTENCES = [
    f"the {colour} {animal} {deed} the {other}"
    for colour, animal, deed, other in product(COLOURS, ANIMALS, DEEDS, ANIMALS)
    if animal != other
]
# Of different lengths, so that batches are padded.
TEXTS = [" and ".join(SENTENCES[7 * i : 7 * i + 1 + i % 3]) for i in range(24)]
PAIRS = [(f"who {text.split(' ', 2)[2]}", text) for text in SENTENCES[::9]]
