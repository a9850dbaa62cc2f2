"""Train forecasters beside transformers' PatchTST, with every attention, and beside the seasonal naive forecast."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from tqdm.auto import tqdm
from transformers import PatchTSTConfig, PatchTSTForPrediction

from trine import TrineConfig, TrineForTimeSeriesPrediction
from trine.configuration.kinds import ATTENTION_KINDS
from trine.scripts.arguments.parsing import RECORDS_HELP, parse_arguments
from trine.scripts.benchmarks.images import SMALL_WINDOWS, spread
from trine.scripts.jobs.forecasts import predict_naively, predict_windows, score
from trine.scripts.jobs.job import bad_input_ends
from trine.scripts.jobs.series_files import read_series
from trine.scripts.train_series import make_parts
from trine.tokenization.records import BadRecords
from trine.training.data.series import Series, Windows


PEER, NAIVE = "transformers' PatchTST", "seasonal naive"
EQUAL = "full, as PatchTST"  # learned positions, layer norms with biases, plain feed-forwards


@dataclass
class SeriesBenchmarkArguments:
    """Options of `trine benchmark series`."""

    files: list[str] = field(metadata={"help": f"{RECORDS_HELP} A record is a step."})
    output: str = field(metadata={"help": "JSON file that gets the figures."})
    season: int = field(metadata={"help": "Steps of a season."})
    time_field: str | None = field(default=None, metadata={"help": "As for `trine train-series`."})
    value_fields: list[str] = field(default_factory=list, metadata={"help": "As for `trine train-series`."})
    series_field: str | None = field(default=None, metadata={"help": "As for `trine train-series`."})
    attention_types: list[str] = field(
        default_factory=lambda: [*ATTENTION_KINDS], metadata={"help": "Kinds that are trained, each in every layer."}
    )
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of weights and batches."})
    steps: int = field(default=600, metadata={"help": "Optimizer steps of each model."})
    batch_size: int = field(default=32, metadata={"help": "Windows in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Largest rate; it rises for a tenth and then falls."})
    context_length: int = field(default=672, metadata={"help": "Steps that are read."})
    prediction_length: int = field(default=48, metadata={"help": "Steps that are predicted."})
    patch_length: int = field(default=48, metadata={"help": "Steps of a patch."})
    patch_stride: int = field(default=24, metadata={"help": "Steps from one patch to the next."})
    hidden_size: int = field(default=64, metadata={"help": "Width of the models."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Their layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Their heads."})
    dropout: float = field(default=0.2, metadata={"help": "Their dropout."})
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the steps that nobody sees."})
    test_fraction: float = field(default=0.2, metadata={"help": "Share of the steps, the last ones, that is scored."})
    test_stride: int = field(default=8, metadata={"help": "Steps from one scored forecast to the next."})


def lengths_of(arguments: SeriesBenchmarkArguments, channels: int) -> dict[str, Any]:
    """The fields that both sides name alike."""
    names = ("context_length", "prediction_length", "patch_length", "patch_stride", "num_hidden_layers")
    own = {name: getattr(arguments, name) for name in (*names, "num_attention_heads")}
    return {**own, "num_input_channels": channels}


def make_model(name: str, arguments: SeriesBenchmarkArguments, channels: int, seed: int) -> Any:
    """The peer, or a model with these layers; the squared error is the loss of all."""
    torch.manual_seed(seed)
    sizes, width, dropout = lengths_of(arguments, channels), arguments.hidden_size, arguments.dropout
    if name == PEER:
        drops = dict.fromkeys(("ff_dropout", "path_dropout", "positional_dropout"), dropout)
        positions = {"positional_encoding_type": "random", "pooling_type": None, "norm_type": "layernorm"}
        return PatchTSTForPrediction(
            PatchTSTConfig(d_model=width, ffn_dim=2 * width, **positions, **drops, **sizes)  # pyright: ignore[reportCallIssue]
        )
    equal = {"position_type": "learned", "norm_type": "layernorm", "attention_bias": True, "mlp_bias": True}
    plain = {"gated_mlp": False, "hidden_act": "gelu", "intermediate_size": 2 * width, "hidden_dropout": dropout}
    if name == EQUAL:
        plain |= equal
    kind = "full" if name == EQUAL else name
    places = (arguments.context_length - arguments.patch_length) // arguments.patch_stride + 1
    config = TrineConfig(
        input_type="series",
        is_causal=ATTENTION_KINDS[kind].causal_only,
        hidden_size=width,
        attention_types=kind,
        max_position_embeddings=places,
        classifier_dropout=0.0,
        **{**plain, **SMALL_WINDOWS, **sizes},
    )
    return TrineForTimeSeriesPrediction(config)


def batches(windows: Windows, size: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches, epoch by epoch."""
    draw = np.random.default_rng(seed)
    while True:
        order = draw.permutation(len(windows))
        for start in range(0, max(1, len(order) - size + 1), size):
            yield default_collate([windows[int(index)] for index in order[start : start + size]])


def train(model: Any, name: str, windows: Windows, arguments: SeriesBenchmarkArguments, seed: int) -> float:
    """Trains a model by the squared error of standardised series; returns its CPU seconds without those of windows."""
    steps, source, seconds = arguments.steps, batches(windows, arguments.batch_size, seed), 0.0
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=arguments.learning_rate, weight_decay=0.01)
    for step in tqdm(range(1, steps + 1), desc=f"{name}, seed {seed}", mininterval=10):
        batch = next(source)
        read = {key: batch[key] for key in ("past_values", "past_observed_mask", "future_values")}
        start = time.process_time()
        rate = min(step / max(1, steps // 10), 0.5 + 0.5 * np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * arguments.learning_rate
        model(**read).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.process_time() - start
    return seconds


def standardise(series: Series, end: int) -> Series:
    """The series minus the mean of its first `end` steps, over their deviation, as all sides read it."""
    known = series.values[:end]
    deviation = np.nanstd(known, axis=0)
    return Series((series.values - np.nanmean(known, axis=0)) / np.where(deviation > 0, deviation, 1.0), series.name)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark series` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([SeriesBenchmarkArguments], argv, command="benchmark series", description=__doc__)
    torch.set_num_threads(1)
    with bad_input_ends():
        bad = BadRecords()
        named = arguments.time_field, arguments.value_fields, arguments.series_field
        series, fields = read_series(arguments.files, *named, bad)
        bad.check()
        if any(np.isnan(each.values).any() for each in series):
            raise ValueError(f"files={arguments.files} lack values, and {PEER} has no mask of the future.")
        shares = arguments.validation_fraction + arguments.test_fraction
        series = [standardise(each, round(len(each.values) * (1 - shares))) for each in series]
        first = make_model(EQUAL, arguments, len(fields), 0)
        training, _, scored = make_parts(series, first.config, arguments)
    naive = score(predict_naively(scored, arguments.season), scored)
    rows: list[dict[str, Any]] = [{"model": NAIVE, **means(naive)}]
    for name in (PEER, EQUAL, *arguments.attention_types):
        for seed in arguments.seeds:
            model = make_model(name, arguments, len(fields), seed)
            seconds = train(model, name, training, arguments, seed)
            found = means(score(predict_windows(model, scored), scored))
            rows.append(
                {"model": name, "seed": seed, **found, "cpu_seconds": seconds, "parameters": model.num_parameters()}
            )
            print(json.dumps(rows[-1]), flush=True)
    Path(arguments.output).write_text(json.dumps({"runs": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


def means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean over windows of MASE and sMAPE; the latter says little of series around 0."""
    return {name: float(scores[name].mean()) for name in ("mase", "smape")}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a Markdown table: means over seeds, with the least and the most."""
    lines = ["| model | parameters | MASE | CPU seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        mase = spread([row["mase"] for row in own], 3)
        seconds = spread([row["cpu_seconds"] for row in own], 0) if "cpu_seconds" in own[0] else ""
        lines.append(f"| {name} | {own[0].get('parameters', 0):,} | {mase} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
