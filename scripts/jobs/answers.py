"""Answers of a decoder to held-out examples, and their scores."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from trine.generation.translation.metrics import METRICS, check_metrics, score_texts
from trine.training.measures.intervals import bootstrap_interval
from trine.training.objectives.instructions import Example


class Answer(NamedTuple):
    """A question, the model's answer, the right one, and whether the model came to an end by itself."""

    prompt: str
    text: str
    target: str
    ended: bool


OF_EACH = {  # scores of one answer, from 0 to 100
    "exact": lambda answer: 100.0 * (answer.text.strip() == answer.target.strip()),
    "ended": lambda answer: 100.0 * answer.ended,
}


def check_answer_metrics(names: Iterable[str]) -> None:
    """Raises a ValueError for an unknown metric, and for one whose package is not installed."""
    others = [name for name in names if name not in OF_EACH]
    if unknown := [name for name in others if name not in METRICS]:
        raise ValueError(f"metrics has {unknown[0]!r}, which is not one of {[*OF_EACH, *METRICS]}.")
    check_metrics(others)


def answers_of(example: Example) -> list[tuple[int, int]]:
    """Begin and end of each run of tokens with labels."""
    learned = [False, *(label >= 0 for label in example["labels"]), False]
    edges = [place for place, (before, after) in enumerate(pairwise(learned)) if before != after]
    return [*zip(edges[::2], edges[1::2], strict=True)]


@torch.no_grad()
def write_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[Answer]:
    """The model's answers by greedy search, in the order of `asked`, which has the tokens of prompts and targets.

    An answer ends with one of the model's `eos_token_id`, after `max_new_tokens`, or where its positions end.
    """
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else [*(ends or [])]
    limit = getattr(model, "position_limits", lambda: (None, None))()[1]
    pad: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else [*ends, 0][0]
    answers: dict[int, Answer] = {}
    order = sorted(range(len(asked)), key=lambda number: len(asked[number][0]))
    for batch in (order[place : place + batch_size] for place in range(0, len(order), batch_size)):
        longest = len(asked[batch[-1]][0])
        rows = [[pad] * (longest - len(asked[number][0])) + [*asked[number][0]] for number in batch]
        mask = [[place >= longest - len(asked[number][0]) for place in range(longest)] for number in batch]
        written = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device).long(),
            max_new_tokens=max_new_tokens if limit is None else max(1, min(max_new_tokens, limit + 1 - longest)),
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
        for number, ids in zip(batch, written[:, longest:].tolist(), strict=True):
            texts = tokenizer.batch_decode([ids, [*asked[number][1]]], skip_special_tokens=True)
            prompt = tokenizer.decode([*asked[number][0]])
            answers[number] = Answer(str(prompt), *texts, ended=any(token in ends for token in ids))
    return [answers[number] for number in range(len(asked))]


def score_answers(
    answers: Sequence[Answer], metrics: Sequence[str]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The scores of these metrics, and the bootstrap's 95 % intervals of those of single answers."""
    values = {name: [OF_EACH[name](answer) for answer in answers] for name in metrics if name in OF_EACH}
    scores = {name: fmean(each) for name, each in values.items()}
    if others := [name for name in metrics if name not in OF_EACH]:
        scores |= score_texts([answer.text for answer in answers], [answer.target for answer in answers], others)
    return scores, {name: bootstrap_interval(each) for name, each in values.items()}
