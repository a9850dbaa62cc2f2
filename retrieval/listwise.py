"""Ranks documents as lists: a causal language model is told all of a window, and says in which order they belong."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..configuration.patterns import check_choice


METHODS = ("generate", "logits")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UNLIMITED = 10**9  # what tokenizers without a limit say is theirs is above this
PROMPT = """I will give you {number} passages, each with an identifier in brackets. Rank them by how well they answer \
the query: {query}

{passages}

Query: {query}
Rank the {number} passages above by their relevance to the query, the most relevant first. The answer has the form \
[{last}] > [{first}]: identifiers only, each of them once."""
PART = re.compile(r"\{(number|query|passages|first|last)\}")


class ListwiseReranker:
    """Brings documents into the order of their relevance to a query, by any causal language model of transformers.

    The model sees `window` documents at a time, from the end of the list to its beginning; two neighbouring windows
    share `window - step`, so that what belongs to the top travels there. If the model orders every window rightly, the
    first `window - step` of the whole list are right; what follows need not be. n documents take one call where they
    are no more than a window, else 1 + ceil((n - window) / step).

    Every answer is a permutation: of the identifiers' tokens only those are allowed that go on with an identifier that
    was not named yet. This is a set, which a logits processor holds; a grammar would need a rule for each subset.

    Args:
        model: The language model.
        tokenizer: Its tokenizer. A chat template is used where there is one.
        window: How many documents the model sees at once.
        step: By how many a window is nearer to the top than the one before.
        method: `generate` lets the model write the order, [2] > [3] > [1] (RankGPT); `logits` orders letters by the
            logits of the answer's first token, in one pass (FIRST).
        max_length: Tokens of prompt and answer together, by default what model and tokenizer allow. Documents are cut
            to fit, the longest first, and the query never.
        prompt: The text around `{query}` and `{passages}`, with `{number}` of them, and their `{first}` and `{last}`
            identifier.

    Raises:
        ValueError: Sizes, method or prompt that cannot be used, or a tokenizer to which identifiers look alike.

    Source: Sun et al. 2023, RankGPT, arXiv 2304.09542; Gangi Reddy et al. 2024, FIRST, arXiv 2406.15657.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        window: int = 20,
        step: int = 10,
        method: str = "generate",
        max_length: int | None = None,
        prompt: str = PROMPT,
    ):
        check_choice("method", method, METHODS)
        for name, value, least in (("window", window, 2), ("step", step, 1), ("max_length", max_length, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
        if step >= window:
            raise ValueError(f"step={step} must be below window={window}: windows that share nothing lift nothing.")
        if missing := [name for name in ("{query}", "{passages}") if name not in prompt]:
            raise ValueError(f"prompt={prompt!r} lacks {missing}.")
        self.model, self.tokenizer = model, tokenizer
        self.window, self.step, self.method, self.prompt = window, step, method, prompt
        self.max_length = most_tokens(model, tokenizer) if max_length is None else max_length
        self.names = [str(number + 1) for number in range(window)] if method == "generate" else [*LETTERS[:window]]
        self.first = [self._encode(f"[{name}]") for name in self.names]  # of an answer, and what follows another
        self.next = [self._encode(f" > [{name}]") for name in self.names]
        self.stem = self._check_identifiers()

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """Ranks documents, with the arguments and the result of `CrossEncoder.rank`.

        Args:
            query: A text.
            documents: Texts, in the order of a first search.
            top_k: How many of the best to return, by default all.
            return_documents: Whether their texts are returned, too.

        Returns:
            For each, the best first, its place in `documents` as `corpus_id`, and as `score` 1 / rank: a list has no
            other.

        Raises:
            ValueError: The query leaves no room for documents.
        """
        order = order_by_windows(
            len(documents),
            self.window,
            self.step,
            lambda places: self.order(query, [documents[place] for place in places]),
        )
        found: list[dict[str, Any]] = [
            {"corpus_id": place, "score": 1 / (rank + 1)} for rank, place in enumerate(order)
        ]
        if return_documents:
            found = [{**each, "text": documents[each["corpus_id"]]} for each in found]
        return found[:top_k]

    @torch.inference_mode()
    def order(self, query: str, documents: Sequence[str]) -> list[int]:
        """The places of up to `window` documents, the most relevant first, by one call of the model."""
        number = len(documents)
        if number > self.window:
            raise ValueError(f"documents are {number}, more than window={self.window}; `rank` takes any number.")
        if number < 2:
            return [*range(number)]
        room = self.max_length - (len(self.stem) if self.method == "logits" else self._longest_answer(number))
        ids = torch.tensor([self._fit(query, documents, room)], device=self.model.device)
        was_training = self.model.training
        self.model.eval()
        try:
            return self._read_logits(ids, number) if self.method == "logits" else self._write_order(ids, number)
        finally:
            self.model.train(was_training)

    def _write_order(self, ids: torch.Tensor, number: int) -> list[int]:
        constraint = PermutationConstraint(self.first[:number], self.next[:number], ids.shape[1])
        output: Any = self.model.generate(  # pyright: ignore[reportCallIssue] of every model that generates
            ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=[constraint],
            stopping_criteria=[AllNamed(constraint)],
            max_new_tokens=self._longest_answer(number),
            do_sample=False,
            num_beams=1,
            pad_token_id=self._pad_id(),
        )
        named, _ = constraint.read(output[0].tolist())
        return [*named, *(place for place in range(number) if place not in named)]

    def _read_logits(self, ids: torch.Tensor, number: int) -> list[int]:
        ids = torch.cat([ids, ids.new_tensor([self.stem])], dim=1)
        logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        scores = finite(logits[[tokens[len(self.stem)] for tokens in self.first[:number]]])
        return scores.argsort(descending=True, stable=True).tolist()

    def _fit(self, query: str, documents: Sequence[str], room: int) -> list[int]:
        """The prompt's tokens, at most `room`, with as much of the documents as fits."""
        texts = [" ".join(text.split()) for text in documents]
        ends = [self._token_ends(text) for text in texts]
        bare = len(self._prompt_ids(query, ["" for _ in texts]))
        limit = fair_limit([len(each) for each in ends], room - bare)
        while limit > 0:
            cut = [
                text if len(each) <= limit else text[: each[limit - 1]] for text, each in zip(texts, ends, strict=True)
            ]
            ids = self._prompt_ids(query, cut)
            if len(ids) <= room:
                return ids
            limit -= max(1, (len(ids) - room) // len(texts))
        raise ValueError(
            f"max_length={self.max_length} leaves no room for {len(texts)} documents: the prompt with the query takes "
            f"{bare} tokens, the answer {self.max_length - room}. Take a smaller window."
        )

    def _prompt_ids(self, query: str, texts: Sequence[str]) -> list[int]:
        names = self.names[: len(texts)]
        passages = "\n".join(f"[{name}] {text}" for name, text in zip(names, texts, strict=True))
        parts = {"number": str(len(texts)), "query": query, "first": names[0], "last": names[-1], "passages": passages}
        text = PART.sub(lambda found: parts[found[1]], self.prompt)
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": text}]
            encoded: Any = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            return list(encoded["input_ids"])
        ids: list[int] = list(self.tokenizer(f"{text}\nAnswer:\n", verbose=False)["input_ids"])
        ends = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return ids[:-1] if len(ids) > 1 and ids[-1] in ends else ids  # the answer goes on where a text would end

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _token_ends(self, text: str) -> list[int]:
        """Where each token of a text ends in it."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"tokenizer={type(self.tokenizer).__name__} does not tell where tokens end; use a fast one."
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in encoded["offset_mapping"]]

    def _longest_answer(self, number: int) -> int:
        return max(map(len, self.first[:number])) + sum(map(len, self.next[:number]))

    def _pad_id(self) -> Any:
        ids = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return next((id_ for id_ in ids if id_ is not None), None)

    def _check_identifiers(self) -> list[int]:
        """Checks that identifiers differ; returns the tokens that all of them begin with, with `logits`."""
        if self.method == "generate":
            for tokens in (self.first, self.next):
                for place, each in enumerate(tokens):
                    if other := [n for n, one in enumerate(tokens[:place]) if starts_alike(one, each)]:
                        raise ValueError(
                            f"The tokenizer writes [{self.names[other[0]]}] and [{self.names[place]}] alike, with "
                            f"unknown characters. A window of {place} would do."
                        )
            return []
        length = next((n for n, column in enumerate(zip(*self.first, strict=False)) if len({*column}) > 1), 0)
        tokens = [each[length] for each in self.first]
        most = next((n for n, token in enumerate(tokens) if token in tokens[:n]), len(tokens))
        if most < self.window:
            raise ValueError(
                f"window={self.window}: of single tokens, this tokenizer tells the first {most} letters apart."
            )
        return self.first[0][:length]


class PermutationConstraint(LogitsProcessor):
    """Allows only tokens that go on with an identifier that was not named before.

    Args:
        first: The tokens of each identifier at the beginning of an answer.
        next: Those of each after another one, with what separates them.
        prompt_length: Tokens before the answer.
    """

    def __init__(self, first: Sequence[Sequence[int]], next: Sequence[Sequence[int]], prompt_length: int):
        self.first, self.next, self.prompt_length = first, next, prompt_length
        self.places = [{tuple(each): place for place, each in enumerate(tokens)} for tokens in (first, next)]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary) with minus infinity for what is forbidden after `input_ids` (rows, length)."""
        allowed = [sorted(self.allowed(row)) for row in input_ids.tolist()]
        result = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(allowed):
            result[row, tokens] = finite(scores[row, tokens])
        return result  # pyright: ignore[reportReturnType] a float tensor

    def read(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """The places that the tokens after the prompt name, in order, and the tokens after the last of them."""
        named: list[int] = []
        begun: tuple[int, ...] = ()
        for token in ids[self.prompt_length :]:
            begun = (*begun, token)
            place = self.places[bool(named)].get(begun)
            if place is not None and place not in named:
                named.append(place)
                begun = ()
        return named, [*begun]

    def allowed(self, ids: Sequence[int]) -> set[int]:
        """The tokens that may follow."""
        named, begun = self.read(ids)
        tokens, length = self.next if named else self.first, len(begun)
        left = (each for place, each in enumerate(tokens) if place not in named)
        return {each[length] for each in left if [*each[:length]] == begun}


class AllNamed(StoppingCriteria):
    """Ends an answer when a single identifier is left."""

    def __init__(self, constraint: PermutationConstraint):
        self.constraint = constraint

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Whether each row (rows,) is whole."""
        last = len(self.constraint.first) - 1
        whole = [len(self.constraint.read(row)[0]) >= last for row in input_ids.tolist()]
        return torch.tensor(whole, device=input_ids.device)  # pyright: ignore[reportReturnType] booleans


def order_by_windows(
    number: int, window: int, step: int, order: Callable[[Sequence[int]], Sequence[int]]
) -> list[int]:
    """The places 0 to `number` - 1 as windows from the last to the first order them.

    Args:
        number: Of documents.
        window: How many are ordered at once.
        step: By how many a window is nearer to the top than the one before.
        order: Gets the documents of a window and says in which order their places in it belong.
    """
    places = [*range(number)]
    end = number
    while end > 1:
        start = max(0, end - window)
        inside = places[start:end]
        places[start:end] = [inside[place] for place in order(inside)]
        end = end - step if start else 0
    return places


def fair_limit(lengths: Sequence[int], room: int) -> int:
    """The largest length to which texts can be cut so that all together fit into `room`."""
    rest = sorted(lengths)
    while rest and rest[0] <= room // len(rest):
        room -= rest.pop(0)
    return max(0, room // len(rest)) if rest else max(lengths, default=0) or 1


def starts_alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one list is the beginning of the other."""
    length = min(len(one), len(other))
    return [*one[:length]] == [*other[:length]]


def finite(scores: torch.Tensor) -> torch.Tensor:
    """Scores without infinities and NaN, which would be no order; what is forbidden elsewhere stays the last."""
    ends = torch.finfo(scores.dtype)
    return torch.nan_to_num(scores, nan=ends.min, posinf=ends.max, neginf=ends.min)


def most_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a model and its tokenizer allow."""
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < UNLIMITED), default=4096)
