"""The caches of prompts, kept by their tokens across calls, so that a model reads no beginning twice."""

import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from .snapshots import count_bytes, grows, in_values, join, take
from .tree import Node, PrefixTree


# What a call may not bring: its states do not follow from its tokens alone, or are not those of `generate`.
REFUSED = {
    "past_key_values": "brings a cache of its own",
    "inputs_embeds": "has vectors in place of tokens",
    "cache_implementation": "asks for another kind of cache",
    "position_ids": "moves the tokens",
    "decoder_input_ids": "begins the target",
    "encoder_outputs": "brings what the encoder has made",
    "token_type_ids": "marks segments",
    "assistant_model": "lets another model draft",
    "prompt_lookup_num_tokens": "drafts from the prompt",
    "custom_generate": "decodes in another way",
    "output_attentions": "asks for the attention of tokens that are not read",
    "output_hidden_states": "asks for the states of tokens that are not read",
}


@dataclass(frozen=True)
class PrefixCacheState:
    """Size and use of a prefix cache.

    Attributes:
        bytes: Memory of what it holds.
        entries: Number of prefixes.
        prompt_tokens: Tokens of all prompts so far.
        cached_tokens: How many of them were not read, because they had been before.
    """

    bytes: int
    entries: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class EncodedSource:
    """The outputs of an encoder for a source."""

    outputs: Any
    bytes: int


@dataclass(frozen=True)
class Begun:
    """A text of which a beginning has been read: its states, and where they are kept.

    Attributes:
        cache: A copy, which may be changed.
        node: The last node that the cache has.
        start: The mark of the model.
        cached_tokens: Tokens of the prompt that need not be read.
        can_be_cut: Whether the states can be taken at any token, not only where a pass ends.
    """

    cache: Cache
    node: Node
    start: tuple[int, ...]
    cached_tokens: int
    can_be_cut: bool


class PrefixCache:
    """Keeps what a model has read, so that prompts with the same beginning are read from there on.

    `model.generate(**inputs, prefix_cache=cache)` looks for the longest beginning of the prompt that was read before,
    goes on from a copy of its states, and keeps those after every `block_size` tokens and after the output, at which
    the next turn of a chat begins. It is exact for every kind of attention and
    for hybrids: keys of all tokens are kept once for all prompts that share them, states and windows whole. Outputs
    equal those without it, up to rounding, for greedy search, sampling with a seed, beams and streaming. Of an
    encoder-decoder, the encoder's outputs are kept for each whole source.

    Each model has its own prefixes, which are not used again when its weights or active adapters have changed. What
    was used least recently goes when the memory is full. Any number of threads may use it at once.
    `cache.generate(model, **inputs)` is the same for models of transformers that are not Trine's.

    Args:
        max_bytes: Memory for states, on the model's device.
        block_size: Tokens between two states that are kept.

    Raises:
        ValueError: A number below 1; in `generate`, several prompts at once, padding, or an argument by which the
            states would not follow from the tokens alone.
    """

    def __init__(self, max_bytes: int = 2**30, block_size: int = 128):
        for name, value in (("max_bytes", max_bytes), ("block_size", block_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")
        self.max_bytes, self.block_size = max_bytes, block_size
        self._tree = PrefixTree(max_bytes)
        self._lock = threading.RLock()
        self._starts: WeakKeyDictionary[Any, tuple[int, Any]] = WeakKeyDictionary()
        self._numbers = 0
        self._prompt_tokens = self._cached_tokens = 0
        self._call = threading.local()

    @property
    def cached_tokens(self) -> int:
        """Of the last call in this thread, the tokens of the prompt that were not read again."""
        return getattr(self._call, "cached_tokens", 0)

    @property
    def state(self) -> PrefixCacheState:
        """Size and use so far."""
        with self._lock:
            return PrefixCacheState(self._tree.bytes, len(self._tree), self._prompt_tokens, self._cached_tokens)

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._tree.clear()

    @torch.no_grad()
    def generate(self, model: PreTrainedModel, inputs: torch.Tensor | None = None, **options: Any) -> Any:
        """`model.generate(inputs, **options)`, with what was read before."""
        ids = inputs if inputs is not None else options.pop("input_ids", None)
        check(model, ids, options)
        options["attention_mask"] = torch.ones_like(ids)
        run = self._from_source if model.config.is_encoder_decoder else self._from_prompt
        return run(model, ids, options)

    def start(self, model: PreTrainedModel) -> tuple[int, ...]:
        """The mark that the paths of a model begin with. It changes with its weights and active adapters."""
        print_ = fingerprint(model)
        with self._lock:
            number, known = self._starts.get(model, (0, None))
            if known != print_:
                self._numbers += 1
                number = self._numbers
                self._starts[model] = number, print_
            return (-number,)

    def _from_prompt(self, model: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
        copies = max(setting(model, options, name) or 1 for name in ("num_beams", "num_return_sequences"))
        begun = self.begin(model, ids, copies)
        output = model.generate(ids, past_key_values=begun.cache, **options)
        if copies == 1:
            sequence = (output if isinstance(output, torch.Tensor) else output.sequences)[0].tolist()
            self.keep(begun, sequence, begun.cache)
        return output

    @torch.no_grad()
    def begin(self, model: PreTrainedModel, ids: torch.Tensor, copies: int = 1) -> "Begun":
        """Looks for the longest beginning of a prompt (1, tokens) that was read before.

        Returns a copy of its states, in `copies` rows: those of the last token are never among them.
        """
        tokens, start = ids[0].tolist(), self.start(model)
        text = [*start, *tokens]
        with self._lock:
            node = self._tree.find(text[:-1])  # `generate` needs a token to read
            path = [part.held for part in node.path()]
        cached = node.length - len(start) if path else 0
        self._count(len(tokens), cached)
        cache = join(path) if path else DynamicCache(config=model.config.get_text_config(decoder=True))
        can_be_cut = all(map(grows, cache.layers))
        if copies > 1 or not can_be_cut:
            node = self._read(model, ids, text, node, cache)
        if copies > 1 and cache.get_seq_length():
            cache.batch_repeat_interleave(copies)
        return Begun(cache, node, start, cached, can_be_cut)

    def keep(self, begun: "Begun", sequence: list[int], cache: Cache) -> None:
        """Keeps the states of a text that was begun and has been continued, of which `cache` has one row."""
        node, length, text = begun.node, cache.get_seq_length(), [*begun.start, *sequence]
        read = max(0, node.length - len(begun.start))
        for stop in [*(self._blocks(read, length) if begun.can_be_cut else ()), length]:
            node = self._keep(node, text, cache, stop)

    def _blocks(self, start: int, end: int) -> range:
        """The ends of the blocks behind `start` tokens, up to `end` tokens."""
        return range((start // self.block_size + 1) * self.block_size, end + 1, self.block_size)

    def _read(self, model: Any, ids: torch.Tensor, text: list[int], node: Node, cache: Cache) -> Node:
        """Reads all whole blocks that are not in the cache yet, but not the last token. Returns the last node.

        States and windows are known only where a forward pass ends.
        """
        kept = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        for stop in self._blocks(cache.get_seq_length(), ids.shape[1] - 1):
            piece = ids[:, cache.get_seq_length() : stop].to(model.device)
            model(input_ids=piece, past_key_values=cache, use_cache=True, **kept)
            node = self._keep(node, text, cache, stop)
        return node

    def _keep(self, node: Node, text: list[int], cache: Cache, stop: int) -> Node:
        """Keeps what a cache has after `stop` tokens, beyond what a node has. Returns where it is kept."""
        start = max(0, node.length - 1)  # a text begins with the mark of its model
        if stop <= start:
            return node
        snapshot = take(cache, start, stop if stop < cache.get_seq_length() else None)
        with self._lock:
            return self._tree.add(node, text[node.length : stop + 1], snapshot)

    def _from_source(self, model: Any, ids: torch.Tensor, options: dict[str, Any]) -> Any:
        tokens = ids[0].tolist()
        text = [*self.start(model), *tokens]
        with self._lock:
            node = self._tree.find(text)
        is_known = node.length == len(text)
        self._count(len(tokens), len(tokens) if is_known else 0)
        if not is_known:
            made = model.get_encoder()(input_ids=ids.to(model.device), return_dict=True)
            source = EncodedSource(made, count_bytes(made))
            with self._lock:
                self._tree.add(self._tree.root, text, source)
        else:
            source = node.held
        outputs = type(source.outputs)(in_values(dict(source.outputs), torch.clone))
        return model.generate(ids, encoder_outputs=outputs, **options)

    def _count(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._call.cached_tokens = cached_tokens
        with self._lock:
            self._prompt_tokens += prompt_tokens
            self._cached_tokens += cached_tokens


def check(model: PreTrainedModel, ids: torch.Tensor | None, options: dict[str, Any]) -> None:
    """Raises a ValueError unless a call reads the tokens of one text alone."""
    for name, why in REFUSED.items():
        value = setting(model, options, name)
        if value is not None and value is not False:
            raise ValueError(f"prefix_cache: {name} {why}. Leave out one of the two.")
    if ids is None or ids.dim() != 2 or ids.shape[0] != 1 or not ids.shape[1]:
        shape = None if ids is None else tuple(ids.shape)
        raise ValueError(
            f"prefix_cache: the shape of the prompt, {shape}, must be (1, tokens): one at a time, in any number of "
            "threads."
        )
    mask = options.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise ValueError("prefix_cache: attention_mask hides tokens. Give the prompt without padding.")
    padding, ends = (setting(model, options, name) for name in ("pad_token_id", "eos_token_id"))
    is_guessed = mask is None and padding is not None and padding not in (ends if isinstance(ends, list) else [ends])
    if is_guessed and bool((ids == padding).any()):
        raise ValueError(
            f"prefix_cache: the prompt holds pad_token_id={padding}, which `generate` takes for padding. Give an "
            "attention_mask of ones where it is not."
        )


def setting(model: Any, options: dict[str, Any], name: str) -> Any:
    """A setting of `generate`: the call's, else that of its generation config, else the model's."""
    configs = (options.get("generation_config"), model.generation_config)
    values = [options.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)


def fingerprint(model: PreTrainedModel) -> tuple:
    """A value that changes with weights and active adapters, unless something writes into `.data` of a weight."""
    weights = tuple(
        (id(weight), 0 if weight.is_inference() else weight._version, weight.dtype, weight.device)
        for weight in model.parameters()
    )
    adapters = tuple(
        (tuple(layer.active_adapters), layer.disable_adapters, tuple(layer.merged_adapters))  # pyright: ignore
        for layer in model.modules()
        if hasattr(layer, "merged_adapters") and hasattr(layer, "disable_adapters")
    )
    return weights, adapters, model.training  # in which dropout makes states random
