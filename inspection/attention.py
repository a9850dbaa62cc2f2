"""The attention weights of a model for one text, layer by layer and head by head, with the tokens they belong to."""

# Shapes: H heads, Q rows (tokens that look), K columns (tokens that are looked at).

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..configuration.patterns import shorten
from ..tokenization.text_ends import encode_targets
from ..tokenization.token_labels import token_labels


SECOND_KEYS = " (second keys)"
CROSS_ATTENTION = "cross-attention"


class WeightMap(NamedTuple):
    """Attention weights of one layer: `weights` (H, Q, K) in float32, which sum to 1 over K, and their labels."""

    name: str  # such as "decoder self-attention"
    layer: int | None  # None for a mean over layers
    kind: str  # of the layer, such as "sliding"
    rows: list[str]
    columns: list[str]
    weights: torch.Tensor


class Reading(NamedTuple):
    """The inputs of a model for one text, as a batch of one, and the labels of its tokens.

    For an encoder-decoder `target` are the tokens that the decoder reads, and `predicted` those that it should say:
    the same, one token later. Both are empty for one stack.
    """

    inputs: dict[str, torch.Tensor]
    source: list[str]
    target: list[str]
    predicted: list[str]
    predicted_ids: list[int]


class NoWeights(ValueError):
    """The model tells no attention weights."""


class Site(NamedTuple):
    """A module that returns weights as item `index` of its output, and whose tokens they relate."""

    name: str
    layer: int
    kind: str
    module: nn.Module
    index: int
    rows: str
    columns: str


def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    target: str | None = None,
    max_length: int = 128,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Reading:
    """Tokenises a text and, for an encoder-decoder, its target; without one, the model generates it.

    Args:
        target_tokenizer: Of what is written, if the model has two; see `load_target_tokenizer`.

    Raises:
        ValueError: A text is empty or has more than `max_length` tokens, or one stack was given a target.
    """
    target_tokenizer = target_tokenizer or tokenizer
    device, translates = model.device, model.config.is_encoder_decoder
    source = _encode(tokenizer, "text", text, max_length)
    inputs = {"input_ids": torch.tensor([source], device=device)}
    if not translates:
        if target is not None:
            raise ValueError(f"target='{target}' needs an encoder-decoder; this is a {type(model).__name__}.")
        return Reading(inputs, token_labels(tokenizer, source), [], [], [])
    start = model.config.decoder_start_token_id
    if target is None:
        generate: Any = model.generate  # pyright: ignore[reportAttributeAccessIssue] as in transformers
        spoken = generate(**inputs, max_new_tokens=max_length)[0].tolist()
    else:
        _encode(target_tokenizer, "target", target, max_length)  # for its errors
        ends = start, model.config.eos_token_id
        forced = getattr(getattr(model, "generation_config", None), "forced_bos_token_id", None)
        spoken = [start, *encode_targets(target_tokenizer, [target], *ends, max_length + 1, forced)[0]]
    inputs["decoder_input_ids"] = torch.tensor([spoken[:-1]], device=device)
    labels = token_labels(target_tokenizer, spoken)
    return Reading(inputs, token_labels(tokenizer, source), labels[:-1], labels[1:], spoken[1:])


def _encode(tokenizer: PreTrainedTokenizerBase, name: str, text: str, max_length: int) -> list[int]:
    if not text.strip():
        raise ValueError(f"{name}={text!r} is empty.")
    texts: dict[str, Any] = {"text_target" if name == "target" else name: text}
    ids: Any = tokenizer(**texts)["input_ids"]
    if len(ids) > max_length:
        raise ValueError(
            f"{name} has {len(ids)} tokens, more than max_length={max_length}: shorten it, or raise max_length."
        )
    return ids


def attention_maps(model: PreTrainedModel, reading: Reading, layers: Sequence[int] | None = None) -> list[WeightMap]:
    """The weights of self-attention, of the second keys of simplicial layers, and of cross-attention.

    Args:
        model: One of Trine's, with any head, loaded with `attn_implementation="eager"`.
        reading: What `read` returned.
        layers: Numbers of the layers that are wanted. Default: all.

    Raises:
        ValueError: The model is not one of Trine's, or there is no such layer.
        NoWeights: None of the layers returns weights. If some do, the others are left out with a warning.
    """
    sites = choose_layers(list(attention_sites(model)), layers)
    outputs = run(model, reading.inputs, [site.module for site in sites])
    maps, silent = [], []
    for site, output in zip(sites, outputs, strict=True):
        weights = output[site.index]
        if weights is None:
            silent.append(f"{site.name} of layer {site.layer}" + f" ({site.kind})" * bool(site.kind))
        else:
            sides = getattr(reading, site.rows), getattr(reading, site.columns)
            maps.append(WeightMap(site.name, site.layer, site.kind, *sides, weights[0].float().cpu()))
    if not maps:
        raise NoWeights(f"No attention weights are returned by {shorten(silent, 4)}. {_advice(model)}")
    if silent:
        warnings.warn(f"No attention weights are returned by {shorten(silent, 4)}: left out.", stacklevel=2)
    return maps


def attention_sites(model: PreTrainedModel) -> Iterator[Site]:
    """All modules of a model that may return attention weights, stack by stack, from the first layer to the last."""
    if model.config.model_type == "trine_recurrent":
        context: Any = trunk_of(model).decoder
        yield Site(CROSS_ATTENTION, 0, "", context.context, 1, "target", "source")
        return
    crossing = []
    for name, stack in stacks_of(model).items():
        side = "target" if name == "decoder " and model.config.is_encoder_decoder else "source"
        for index, (layer, kind) in enumerate(zip(stack.layers, stack.config.attention_types, strict=True)):
            place = (index, kind, layer.self_attn)
            yield Site(f"{name}self-attention", *place, 1, side, side)
            if kind == "simplicial":
                yield Site(f"{name}self-attention{SECOND_KEYS}", *place, 2, side, side)
            if layer.cross_attn is not None:
                crossing.append(Site(CROSS_ATTENTION, index, "full", layer.cross_attn, 1, "target", "source"))
    yield from crossing


def trunk_of(model: PreTrainedModel) -> Any:
    """The model without its head."""
    return getattr(model, model.base_model_prefix, model)


def stacks_of(model: PreTrainedModel) -> dict[str, Any]:
    """The stacks of layers of a Trine model, by the prefix of their names.

    Raises:
        ValueError: The model is another.
    """
    trunk, kind = trunk_of(model), model.config.model_type
    if kind == "trine":
        return {"": trunk}
    if kind == "trine_seq2seq":
        return {"encoder ": trunk.encoder, "decoder ": trunk.decoder}
    raise ValueError(f"model_type='{kind}' is not one of ['trine', 'trine_seq2seq', 'trine_recurrent'].")


def choose_layers(sites: list, layers: Sequence[int] | None) -> list:
    """The sites in these layers.

    Raises:
        ValueError: A number is no layer's.
    """
    known = sorted({site.layer for site in sites})
    if layers is None:
        return sites
    if strange := sorted({*layers} - {*known}):
        raise ValueError(f"layers={[*layers]} has {strange}, but the choices are {known}.")
    return [site for site in sites if site.layer in layers]


@torch.no_grad()
def run(model: PreTrainedModel, inputs: dict[str, torch.Tensor], modules: Iterable[nn.Module]) -> list[Any]:
    """Runs one forward pass in evaluation mode; returns the outputs of the modules, in their order."""
    modules, outputs, training = list(modules), {}, model.training

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = output

    handles = [module.register_forward_hook(keep) for module in {*modules}]
    try:
        model.eval()(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return [outputs[module] for module in modules]


def alignment(maps: Iterable[WeightMap], predicted: Sequence[str]) -> WeightMap:
    """Aligns the target to the source: the mean of cross-attention over heads and layers.

    A row is the token that is *predicted* there, where the rows of cross-attention itself are the tokens that the
    decoder reads.
    """
    crossing = [item for item in maps if item.name == CROSS_ATTENTION]
    if not crossing:
        raise ValueError("An alignment needs cross-attention, which is not among the maps.")
    weights = torch.cat([item.weights for item in crossing]).mean(0, keepdim=True)
    layers = ", ".join(str(item.layer) for item in crossing)
    return WeightMap("alignment", None, f"mean of layers {layers}", [*predicted], crossing[0].columns, weights)


def _advice(model: PreTrainedModel) -> str:
    if model.config.model_type == "trine_recurrent":
        return f"The model has attention='{model.config.attention}'; only 'dot' has weights."
    chosen = model.config._attn_implementation
    if chosen == "eager":
        return "Attention of these kinds never computes any."
    return f"Load the model with attn_implementation='eager'; it is '{chosen}'."
