"""Measures on texts how outputs change with weights of fewer bits: losses and choices, or vectors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from ..companions import find_source
from ..programs.check import load_program
from ..programs.export import find_class
from .fast import fast_on_cpu
from .quantize import QUANTIZED
from .report import Report
from .schemes import SCHEMES


LONGEST = 512  # tokens of a text


@torch.no_grad()
def measure_quality(report: Report, texts: Sequence[str], max_length: int = LONGEST) -> dict[str, Any]:
    """Compares a source with what was made of it, on texts one by one, and with `fast_on_cpu`; fills `report.quality`.

    Of a model that generates it tells the loss in nats for each token and on how many tokens the most likely next one
    is the same; of another the smallest and the mean cosine of the means of its states.

    Args:
        report: Of `quantize`; both folders are there.
        texts: At least one.
        max_length: Tokens of a text that are read.

    Raises:
        ValueError: There is no text with a token to predict.
        OSError: The source has no tokenizer.
    """
    source, made, batches = load_sides(report, texts, max_length)
    compare = compare_predictions if source.can_generate() else compare_vectors
    report.quality |= {"texts": f"{len(batches)}", **compare(source, made, batches)}
    return report.quality


def load_sides(
    report: Report, texts: Sequence[str], max_length: int = LONGEST
) -> tuple[Any, dict[str, Callable[..., Any]], list[dict[str, torch.Tensor]]]:
    """The source, what was made of it by names, and the inputs of texts, one at a time; errors as above."""
    folder, target = find_source(report.source), Path(report.target)
    model_class = find_class(folder, QUANTIZED)
    batches = encode(folder, texts, max_length, model_class)
    source = model_class.from_pretrained(folder).eval()
    made: dict[str, Callable[..., Any]] = {}
    if SCHEMES[report.scheme].rules:
        made[report.scheme] = model_class.from_pretrained(target).eval()
        made[f"{report.scheme}, fast_on_cpu"] = fast_on_cpu(model_class.from_pretrained(target).eval())
    else:
        made[report.scheme] = load_program(target)
    return source, made, batches


def run(model: Callable[..., Any], inputs: dict[str, torch.Tensor], is_seq2seq: bool) -> Any:
    """Outputs of a model for one text; an encoder-decoder writes what it reads."""
    ids = inputs["input_ids"]
    return model(**({**inputs, "decoder_input_ids": ids[:, :-1]} if is_seq2seq else inputs))


def encode(folder: Path, texts: Sequence[str], max_length: int, model_class: Any) -> list[dict[str, torch.Tensor]]:
    """The inputs of each text, one at a time; those with nothing to predict are left out."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    least = 2 if model_class.can_generate() else 1
    limit = getattr(model_class.config_class.from_pretrained(folder), "max_position_embeddings", None) or max_length
    options = {"truncation": True, "max_length": min(limit, max_length), "return_tensors": "pt"}
    batches = []
    for text in texts:
        inputs = tokenizer(text, return_token_type_ids=False, **options)
        if inputs["input_ids"].shape[1] >= least:
            batches.append(dict(inputs))
    if not batches:
        raise ValueError(f"The {len(texts)} texts to calibrate on have no token to predict: they are empty.")
    return batches


def compare_predictions(source: Any, made: dict[str, Callable[..., Any]], batches: list[Any]) -> dict[str, Any]:
    """Losses of next tokens before and after, and the share of tokens of which the best one is the same."""
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in ("before", *made)}
    tokens = 0
    for inputs in batches:
        targets, is_seq2seq = inputs["input_ids"][0, 1:], source.config.is_encoder_decoder
        expected = logits_of(run(source, inputs, is_seq2seq), len(targets))
        tokens += len(targets)
        for name, model in (("before", None), *made.items()):
            logits = expected if model is None else logits_of(run(model, inputs, is_seq2seq), len(targets))
            sums[name][0] += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            sums[name][1] += float((logits.argmax(-1) == expected.argmax(-1)).sum())
    found: dict[str, Any] = {"tokens": f"{tokens}", "loss before": sums["before"][0] / tokens}
    for name in made:
        found |= {f"loss, {name}": sums[name][0] / tokens, f"top-1 agreement, {name}": sums[name][1] / tokens}
    return found


def logits_of(outputs: Any, count: int) -> torch.Tensor:
    """The first `count` logits (count, vocabulary) of one text."""
    return torch.as_tensor(outputs["logits"])[0, :count].float()


def compare_vectors(source: Any, made: dict[str, Callable[..., Any]], batches: list[Any]) -> dict[str, Any]:
    """The smallest and the mean cosine of the texts' vectors before and after: the means of states or logits."""
    cosines: dict[str, list[float]] = {name: [] for name in made}
    for inputs in batches:
        expected = vector_of(source(**inputs))
        for name, model in made.items():
            cosines[name].append(float(torch.cosine_similarity(vector_of(model(**inputs)), expected, dim=0)))
    found = {}
    for name, values in cosines.items():
        found |= {f"worst cosine, {name}": min(values), f"mean cosine, {name}": sum(values) / len(values)}
    return found


def vector_of(outputs: Any) -> torch.Tensor:
    """The mean of the first output of one text that has a value for each token, or its values for the whole text."""
    names = ("last_hidden_state", "logits", "prediction_logits", "start_logits")
    first = next((outputs[name] for name in names if outputs.get(name) is not None), None)
    values = torch.as_tensor(next(iter(outputs.values())) if first is None else first)[0].float()
    return values.mean(dim=0) if values.ndim > 1 else values.flatten()
