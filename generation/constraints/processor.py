"""Output that matches a JSON schema, a grammar or a regular expression, through the logits of `generate`."""

import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ...tokenization.token_spelling import spell_tokens, writes_spaces
from .json_schemas import check_regex, check_schema


if TYPE_CHECKING:
    from xgrammar import CompiledGrammar, GrammarMatcher


CONTROL_CHARACTERS = set(range(0x20))  # what JSON writes as escapes only


def constrained_by(
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocab_size: int | None = None,
    json_schema: dict | str | None = None,
    grammar: str | None = None,
    regex: str | None = None,
    eos_token_id: int | list[int] | None = None,
) -> "Constraint":
    """Makes a logits processor with which every output of `generate` matches a schema, grammar or regular expression.

    Pass it as `generate(logits_processor=[...])` to any model of transformers, a new one for each call. It serves
    greedy search, sampling, beams and several outputs per prompt, in batches. An output that reaches `max_new_tokens`
    before its end is cut off and need not match: `is_complete` tells. `text` reads the output; for tokenizers that
    keep spaces it is what `decode` gives.

    Args:
        tokenizer: The model's: byte-level BPE, Unigram, BPE with byte fallback, or WordPiece, with which outputs have
            no spaces.
        vocab_size: Number of the model's logits, `model.config.vocab_size`, where that is not the tokenizer's.
        json_schema: JSON written without free white space, properties in the order of the schema. A schema with
            something that a grammar cannot hold is refused. Without bounds on lengths and numbers, a model may write
            for ever.
        grammar: EBNF in the form of GBNF, whose first rule is called `root`.
        regex: Regular expression for the whole output.
        eos_token_id: Id, or ids, that end an output. Default: the tokenizer's.

    Raises:
        ImportError: xgrammar is not installed.
        ValueError: Not exactly one of the three is given, it is ill-formed or cannot be held, or nothing ends outputs.

    Source: Dong et al. 2024, XGrammar, arXiv 2411.15100.
    """
    given = {"json_schema": json_schema, "grammar": grammar, "regex": regex}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ValueError(f"Exactly one of {list(given)} must be given, but these are: {names}.")
    stops: Any = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
    if stops is None:
        raise ValueError(
            "eos_token_id is None, and so is the tokenizer's: nothing would end an output. Pass what ends the model's "
            "texts, such as tokenizer.sep_token_id."
        )
    try:
        import xgrammar
    except ImportError as error:
        raise ImportError("Constrained output needs xgrammar: pip install 'trine[constrained]'") from error
    spelled = spell_tokens(tokenizer, vocab_size or len(tokenizer))
    if json_schema is not None:  # xgrammar's strings of a bounded length would hold control characters
        spelled = [b"" if CONTROL_CHARACTERS & set(token) else token for token in spelled]
    check_regex(regex or "", "regex")
    rules = _read_schema(json_schema) if json_schema is not None else given[names[0]]
    readers: dict[str, Any] = {
        "json_schema": lambda: xgrammar.Grammar.from_json_schema(
            rules, any_whitespace=False, separators=(", ", ": ") if writes_spaces(spelled) else (",", ":")
        ),
        "grammar": lambda: xgrammar.Grammar.from_ebnf(rules),
        "regex": lambda: xgrammar.Grammar.from_regex(rules),
    }
    try:
        parsed = readers[names[0]]()
    except RuntimeError as error:
        raise ValueError(f"{names[0]}={given[names[0]]!r} cannot be read: {error}") from error
    info = xgrammar.TokenizerInfo(spelled, vocab_size=len(spelled), stop_token_ids=stops)
    return Constraint(xgrammar.GrammarCompiler(info).compile_grammar(parsed), spelled)


class Constraint(LogitsProcessor):
    """Logits processor that forbids every token after which no matching output is left; made by `constrained_by`.

    Outputs are told apart by their tokens, not by their row: beams are reordered between two calls.
    """

    def __init__(self, compiled: "CompiledGrammar", spelled: list[bytes]):
        self.compiled = compiled
        self.spelled = spelled
        self.stops = compiled.tokenizer_info.stop_token_ids
        # After the byte 0xED these write a surrogate, which is not text, though xgrammar's grammars have it.
        self.ends_surrogate = torch.tensor([token[:1] >= b"\xa0" and token[:1] < b"\xc0" for token in spelled])
        self.prompt_length: int | None = None
        self.states: dict[tuple[int, ...], GrammarMatcher | None] = {}  # of the outputs of the last call

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary) with minus infinity for what is forbidden after `input_ids` (rows, length).

        Raises:
            ValueError: The scores are not of as many tokens as the constraint; no token of the vocabulary can go on;
                or the constraint was used by another call of `generate` before.
        """
        if scores.shape[1] != len(self.spelled):
            raise ValueError(
                f"vocab_size={len(self.spelled)} of the constraint is not the {scores.shape[1]} of the model's logits."
            )
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        outputs = [tuple(row) for row in input_ids[:, self.prompt_length :].tolist()]
        self.states = {output: self._state(output) for output in dict.fromkeys(outputs)}
        allowed = {output: self._allowed(output) for output in self.states}
        mask = torch.stack([allowed[output] for output in outputs]).to(scores.device)
        return scores.masked_fill(~mask, -torch.inf)  # pyright: ignore[reportReturnType] a float tensor

    def text(self, output_ids: torch.Tensor | list[int]) -> str:
        """The text of the tokens after the prompt, ids (length,), up to the token that ends it."""
        return b"".join(self.spelled[id] for id in self._until_stop(output_ids)).decode("utf-8", errors="replace")

    def is_complete(self, output_ids: torch.Tensor | list[int]) -> bool:
        """Whether the tokens after the prompt, ids (length,), are a whole output and not one that was cut off."""
        matcher = self._walk(tuple(self._until_stop(output_ids)))
        return matcher is not None and matcher.is_completed()

    def _until_stop(self, output_ids: torch.Tensor | list[int]) -> list[int]:
        ids = output_ids.tolist() if isinstance(output_ids, torch.Tensor) else list(output_ids)
        return ids[: next((index for index, id in enumerate(ids) if id in self.stops), len(ids))]

    def _state(self, output: tuple[int, ...]) -> "GrammarMatcher | None":
        """The grammar after an output; None for a beam of probability 0, which went on with a forbidden token."""
        if output in self.states:
            return self.states[output]
        if output and output[:-1] in self.states:
            state = self.states[output[:-1]]
            if state is None or state.is_terminated():
                return state
            state = state.fork()
            return state if state.accept_token(output[-1]) else None
        state = self._walk(output)
        if state is None:
            raise ValueError(
                f"The tokens after the first {self.prompt_length} do not match: a constraint serves one generation."
            )
        return state

    def _walk(self, output: tuple[int, ...]) -> "GrammarMatcher | None":
        """The grammar after an output from its beginning, or None if that does not match."""
        import xgrammar

        state = xgrammar.GrammarMatcher(self.compiled)
        for token in output:
            if not state.is_terminated() and not state.accept_token(token):
                return None
        return state

    def _allowed(self, output: tuple[int, ...]) -> torch.Tensor:
        """Mask (vocabulary,) of the tokens that may follow an output; only the end follows an end."""
        import xgrammar

        state = self.states[output]
        if state is None or state.is_terminated():
            allowed = torch.zeros(len(self.spelled), dtype=torch.bool)
            allowed[self.stops] = True
            return allowed
        bits = xgrammar.allocate_token_bitmask(1, len(self.spelled))
        state.fill_next_token_bitmask(bits)
        allowed = ((bits[0, :, None] >> torch.arange(32, dtype=torch.int32)) & 1).bool().flatten()[: len(self.spelled)]
        if output and self.spelled[output[-1]].endswith(b"\xed"):
            allowed &= ~self.ends_surrogate
        if not allowed.any():
            raise ValueError(f"No token can follow {self.text(list(output))!r}: the tokenizer lacks what has to come.")
        return allowed


def _read_schema(schema: dict | str) -> str:
    """A schema as JSON, checked for what a grammar cannot hold."""
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
    except json.JSONDecodeError as error:
        raise ValueError(f"json_schema is not JSON: {error}") from error
    check_schema(schema)
    return json.dumps(schema, ensure_ascii=False)
