"""Tasks of `trine study simplicial`: synthetic problems as token ids, or texts."""

# Shapes: B batch, N tokens.

from collections.abc import Callable, Iterable

import torch


SET_SIZE, MODULUS = 8, 29
DOMAIN = 8  # values that the functions to be composed are defined on
COMPOSITION_VOCABULARY = 2 * DOMAIN**2 + DOMAIN
COMMON_ENDING = " Give the result as your final answer. Do not include units."


def match3(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draws sets of numbers; labels say of each x_i whether there are j and k with x_i + x_j + x_k = 0 (mod 29).

    j and k need not differ, from each other or from i. Both results are (B, N).
    Source: Sanford et al. 2023, Representational strengths and limitations of transformers, arXiv 2306.02896.
    """
    numbers = torch.randint(MODULUS, (size, SET_SIZE), generator=generator)
    sums = (numbers[:, :, None] + numbers[:, None, :]) % MODULUS
    found = torch.zeros(size, MODULUS, dtype=torch.int64).scatter_(1, sums.flatten(1), 1)
    return {"input_ids": numbers, "labels": found.gather(1, -numbers % MODULUS)}


def composition(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draws a permutation g and a function f of eight values, in random order, and a query q; the label is f(g(q)).

    Each token is a pair: first those of (a, g(a)), then those of (b, f(b)), then the query alone: (B, 17). Labels are
    (B,).
    """

    def shuffled() -> torch.Tensor:
        return torch.rand(size, DOMAIN, generator=generator).argsort(dim=1)

    g, f = shuffled(), torch.randint(DOMAIN, (size, DOMAIN), generator=generator)
    query = torch.randint(DOMAIN, (size, 1), generator=generator)
    first, second = shuffled(), shuffled()
    tokens = (first * DOMAIN + g.gather(1, first), DOMAIN**2 + second * DOMAIN + f.gather(1, second))
    labels = f.gather(1, g.gather(1, query))[:, 0]
    return {"input_ids": torch.cat((*tokens, 2 * DOMAIN**2 + query), dim=1), "labels": labels}


def gym_problems(task: str, count: int, seed: int, without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Different questions of a task of reasoning-gym, none of which is in `without`, each with its answer.

    What all questions of the task have, such as how to write the answer, is cut off.
    """
    from reasoning_gym.factory import create_dataset

    # Some come again. Entries are made one by one, so four times as many cost no more time than are needed.
    seen, problems = set(without), []
    options, cut = TASKS[task]
    for entry in create_dataset(task, size=4 * count, seed=seed, **options):
        question = cut(entry["question"])
        if question not in seen:
            seen.add(question)
            problems.append((question, entry["answer"]))
        if len(problems) == count:
            break
    return problems


# The options of each task, and how its questions are cut.
# `gsm_symbolic` has 100 templates with other names and numbers each time (Mirzadeh et al. 2024, arXiv 2410.05229).
TASKS: dict[str, tuple[dict[str, int], Callable[[str], str]]] = {
    "gsm_symbolic": ({}, lambda question: question.removesuffix(COMMON_ENDING)),
    "chain_sum": (
        {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
        lambda question: question.rpartition(": ")[2].replace(" ", ""),
    ),
}
