"""Prints the answers of `trine words`, and makes maps of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trine.inspection.word_contexts import WordUse, cosines_between, cosines_to_words, word_uses
from trine.inspection.word_lookup import Expression, parse_equation, parse_expression
from trine.inspection.word_map import ASKED, FOUND, RESULT, WordMap
from trine.inspection.word_pieces import Spelling
from trine.inspection.words import layer_vectors, trunk_of
from trine.scripts.jobs.word_sources import Source
from trine.scripts.jobs.word_tests import TOTAL, score_analogies, score_similarity


ON_MAP = 5  # neighbours of each use of a word


def tell_sum(source: Source, text: str, k: int) -> WordMap:
    """Prints the words that are nearest to a sum; of an equation, how near its sides are, and its solution."""
    equation = parse_equation(text)
    if equation is None:
        return tell_nearest(source, as_keys(source, parse_expression(text)), text, k)
    left, right = as_keys(source, equation.left), as_keys(source, equation.right)
    cosine = float(mean_vector(source.vectors, left) @ mean_vector(source.vectors, right))
    print(f"{text}: the cosine of both sides is {cosine:.4f}.")
    answer, *rest = right.plus
    solved = Expression([*left.plus, *right.minus], [*left.minus, *rest])
    found = tell_nearest(source, solved, str(solved), k)
    print(f"{answer!r} is number {rank(source.vectors, solved, answer):,} of them.")
    return found


def as_keys(source: Source, expression: Expression) -> Expression:
    """A sum of the keys of its words."""
    keys = source.look_up([*expression.plus, *expression.minus])
    return Expression(keys[: len(expression.plus)], keys[len(expression.plus) :])


def mean_vector(vectors: Any, expression: Expression) -> np.ndarray:
    """The vector of a sum, as `most_similar` makes it: of words of length 1, and itself of length 1."""
    weights = [1.0] * len(expression.plus) + [-1.0] * len(expression.minus)
    keys = [*expression.plus, *expression.minus]
    return vectors.get_mean_vector(keys, weights, pre_normalize=True, post_normalize=True)


def rank(vectors: Any, expression: Expression, word: str) -> int:
    """The place of a word among those that are nearest to a sum, without the words of the sum."""
    cosines = vectors.most_similar(*expression, topn=None)
    others = [vectors.get_index(key) for key in {*expression.plus, *expression.minus} - {word}]
    cosines[others] = -np.inf
    return 1 + int((cosines > cosines[vectors.get_index(word)]).sum())


def tell_nearest(source: Source, expression: Expression, title: str, k: int) -> WordMap:
    """Prints the words that are nearest to a sum of keys, which are left out themselves, with their cosines."""
    vectors = source.vectors
    found = vectors.most_similar(*expression, topn=k)
    width = max((len(word) for word, _ in found), default=0)
    print(f"Nearest to {title}:", *[f"  {word:<{width}}  {cosine:.4f}" for word, cosine in found], sep="\n")
    asked = [*dict.fromkeys([*expression.plus, *expression.minus])]
    labels = [*asked, *[word for word, _ in found]]
    rows = vectors[labels]
    kinds = [ASKED] * len(asked) + [FOUND] * len(found)
    if len(asked) > 1:
        rows = np.concatenate([rows, mean_vector(vectors, expression)[None]])
        labels, kinds = [*labels, f"= {title}"], [*kinds, RESULT]
    return WordMap(f"{title}, by {source.name}", labels, kinds, torch.from_numpy(rows))


def tell_analogies(source: Source, path: Path) -> None:
    """Prints how many questions of each section are answered rightly."""
    scores = score_analogies(source.vectors, path)
    width = max(map(len, scores.sections))
    print(f"Analogies of {path.name}:")
    for name, (right, answered) in scores.sections.items():
        share = f"{right / answered:.3f}" if answered else "-"
        ends = f" ({scores.interval[0]:.3f} to {scores.interval[1]:.3f})" if name == TOTAL and answered else ""
        print(f"  {name:<{width}}  {right:6,} of {answered:6,}  {share}{ends}")
    if scores.skipped:
        print(f"{scores.skipped:,} questions hold words that are not among the vectors, and are left out.")


def tell_similarity(source: Source, path: Path) -> None:
    """Prints how well cosines agree with people's judgements."""
    scores = score_similarity(source.vectors, path)
    ends = f" ({scores.interval[0]:.3f} to {scores.interval[1]:.3f})" if scores.interval else ""
    print(
        f"Similarity of {path.name}: Spearman {scores.spearman:.4f}{ends}, Pearson {scores.pearson:.4f}; "
        f"{scores.pairs[0]:,} of {scores.pairs[1]:,} pairs, {scores.unknown:.1f} % out of "
        "vocabulary"
    )
    if scores.skipped:
        print(
            f"{len(scores.skipped):,} lines are no two words and a number with tabs between them, and are left out; "
            f"the first is line {scores.skipped[0]:,}."
        )


def tell_uses(
    loaded: tuple[Any, Any], word: str, sentences: list[str], compared: list[str], words: list[str], k: int
) -> list[WordMap]:
    """Prints, layer by layer, how near the uses of a word are to each other and to other words; a map a layer.

    Args:
        loaded: A model and its tokenizer.
        compared: Words whose cosines with each use are shown.
        words: Those among which neighbours are looked for.
        k: How many.
    """
    model, tokenizer = loaded
    uses = word_uses(model, tokenizer, word, sentences)
    for number, use in enumerate(uses, 1):
        print(f"  {number}: {use.sentence}  ({' '.join(use.pieces)})")
    mutual = cosines_between(uses)
    near = cosines_to_words(uses, model, tokenizer, [*compared, *words])
    own = {word.lower(), *(use.sentence[use.start : use.stop].lower() for use in uses)}
    candidates = [place for place, each in enumerate(words, len(compared)) if each.lower() not in own]
    candidates = torch.tensor(candidates, dtype=torch.long, device=near.device)
    found: list[list[str]] = []
    for layer in range(len(mutual)):
        pairs = [f"{a + 1} and {b + 1} {mutual[layer, a, b]:.3f}" for b in range(len(uses)) for a in range(b)]
        print(f"Layer {layer}: cosine of {', of '.join(pairs)}")
        on_map: list[str] = []
        for number in range(len(uses)):
            row = near[layer, number]
            order = candidates[row[candidates].argsort(descending=True, stable=True)][:k].tolist()
            shown = [f"{each} {row[place]:.3f}" for place, each in enumerate(compared)]
            neighbours = [f"{words[place - len(compared)]} {row[place]:.3f}" for place in order]
            print(f"  {number + 1}: " + " | ".join(filter(None, [", ".join(shown), ", ".join(neighbours)])))
            on_map += [words[place - len(compared)] for place in order[:ON_MAP]]
        found.append([*dict.fromkeys(each for each in on_map if each not in compared)])
    return maps_of(loaded, word, uses, compared, found)


def maps_of(
    loaded: tuple[Any, Any], word: str, uses: Sequence[WordUse], compared: list[str], found: list[list[str]]
) -> list[WordMap]:
    """A map of each layer: the uses of a word, the words that they are compared with, and the neighbours found."""
    model, tokenizer = loaded
    others = [*dict.fromkeys([*compared, *(each for row in found for each in row)])]
    states = layer_vectors(trunk_of(model), Spelling(tokenizer).pieces(others, special=True)) if others else None
    maps = []
    for layer, row in enumerate(found):
        rows = [use.states[layer] for use in uses]
        if states is not None:
            rows += [states[layer, others.index(each)] for each in (*compared, *row)]
        labels = [*(f"{word} ({number})" for number in range(1, len(uses) + 1)), *compared, *row]
        kinds = [RESULT] * len(uses) + [ASKED] * len(compared) + [FOUND] * len(row)
        maps.append(WordMap(f"{word}, layer {layer}", labels, kinds, torch.stack(rows).float().cpu()))
    return maps
