"""The experts that the tokens of a text visit, and the share of each expert in words of a tag."""

# Shapes: T tokens, E experts, C experts per token.

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..modeling.heads.base import routers_of
from .attention import Reading, WeightMap, choose_layers, run, stacks_of


ALL = "(all)"
REST = "(other)"


class Router(NamedTuple):
    """A router of a model, with its name and place."""

    name: str
    layer: int
    module: nn.Module
    side: str  # whose tokens it routes


def find_routers(model: PreTrainedModel) -> Iterator[Router]:
    """The routers of a model, stack by stack; none if it has no experts."""
    stacks = {} if model.config.model_type == "trine_recurrent" else stacks_of(model)
    for prefix, stack in stacks.items():
        for index, router in routers_of(stack).items():
            yield Router(f"{prefix}experts", index, router, "target" if prefix == "decoder " else "source")


def expert_maps(model: PreTrainedModel, reading: Reading, layers: Sequence[int] | None = None) -> list[WeightMap]:
    """The weight of each expert for each token, 0 for those that it does not visit, as maps of one "head".

    Layers without experts are left out, so the list may be empty. How weights sum is as the model's config says.
    """
    routers = [router for router in find_routers(model) if layers is None or router.layer in layers]
    outputs = run(model, reading.inputs, [router.module for router in routers]) if routers else []
    maps = []
    for router, (_, weights, experts) in zip(routers, outputs, strict=True):
        spread = torch.zeros(len(weights), router.module.num_experts, device=weights.device)  # pyright: ignore[reportCallIssue, reportArgumentType]
        spread.scatter_(1, experts, weights.float())
        names = [f"expert {number}" for number in range(spread.shape[1])]
        rows = getattr(reading, router.side)
        maps.append(WeightMap(router.name, router.layer, "sparse", rows, names, spread[None].cpu()))
    return maps


def experts_by_tag(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[tuple[Sequence[str], Sequence[str]]],
    layers: Sequence[int] | None = None,
    *,
    most_tags: int = 30,
    max_length: int = 128,
    batch_size: int = 32,
) -> tuple[list[WeightMap], dict[str, int]]:
    """The share of each expert in the visits of words with a tag, such as a part of speech.

    Every piece of a word counts. The first row is that of all words, for comparison. In an encoder-decoder, the
    encoder reads the words.

    Args:
        records: Words and their tags, one per word.
        layers: Numbers of the layers that are wanted. Default: all that have experts.
        most_tags: The most frequent tags have rows of their own, the others one together.
        max_length: Pieces after which a record is cut off.

    Returns:
        A map of one "head" for each layer, and the number of pieces for each of its rows.

    Raises:
        ValueError: No layer has experts, a wanted one has none, or words cannot be told from pieces.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer, a {type(tokenizer).__name__}, cannot tell words from pieces.")
    routers = [router for router in find_routers(model) if router.side == "source"]
    if not routers:
        raise ValueError("Experts by tag need experts, but no layer that reads the words is 'sparse'.")
    routers = choose_layers(routers, layers)
    reader: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    index = {tag: row for row, tag in enumerate(sorted({tag for _, tags in records for tag in tags}))}
    visits = [torch.zeros(len(index), int(router.module.num_experts)) for router in routers]  # pyright: ignore[reportArgumentType]
    pieces = torch.zeros(len(index))
    for inputs, tags, real in _batches(tokenizer, records, max_length, batch_size):
        rows = torch.tensor([index[tag] for tag in tags])
        pieces += torch.bincount(rows, minlength=len(index))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        outputs = run(reader, inputs, [router.module for router in routers])
        for counts, (_, _, experts) in zip(visits, outputs, strict=True):
            chosen = functional.one_hot(experts.cpu()[real], counts.shape[1]).sum(1)
            counts.index_add_(0, rows, chosen.float())
    counter = Counter({tag: int(pieces[row]) for tag, row in index.items() if pieces[row]})
    groups = _groups(counter, most_tags)
    maps = []
    for router, counts in zip(routers, visits, strict=True):
        table = torch.stack([counts[[index[tag] for tag in tags]].sum(0) for tags in groups.values()])
        shares = table / table.sum(1, keepdim=True)
        names = [f"expert {number}" for number in range(shares.shape[1])]
        maps.append(WeightMap(f"{router.name} by tag", router.layer, "sparse", [*groups], names, shares[None]))
    return maps, {row: sum(counter[tag] for tag in tags) for row, tags in groups.items()}


def _batches(
    tokenizer: PreTrainedTokenizerBase, records: Sequence, max_length: int, batch_size: int
) -> Iterator[tuple[dict[str, torch.Tensor], list[str], torch.Tensor]]:
    """Padded inputs, the tags of the pieces of words, and where these stand among all tokens of the batch."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        options: Any = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
        encoded = tokenizer([[*words] for words, _ in batch], is_split_into_words=True, **options)
        tags = [
            None if word is None else batch[row][1][word]
            for row in range(len(batch))
            for word in encoded.word_ids(row)
        ]
        inputs: Any = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        yield inputs, [tag for tag in tags if tag is not None], torch.tensor([tag is not None for tag in tags])


def _groups(counter: Counter[str], most: int) -> dict[str, list[str]]:
    """The rows of the table, and the tags that each holds."""
    named = [tag for tag, _ in counter.most_common(most)]
    others = [tag for tag in counter if tag not in named]
    return {ALL: [*counter], **{tag: [tag] for tag in named}} | ({REST: others} if others else {})
