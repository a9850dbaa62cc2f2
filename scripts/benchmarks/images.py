"""Train classifiers of images beside transformers' ViT, with every attention, and on mixed sizes without padding."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification

from trine import TrineConfig, TrineForImageClassification, convert
from trine.configuration.kinds import ATTENTION_KINDS
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.jobs.job import bad_input_ends
from trine.scripts.jobs.picture_files import read_pictures
from trine.tokenization.records import BadRecords
from trine.training.data.pictures import Augmentation, PictureCollator, Pictures


PEER = "transformers' ViT"
MEAN = [0.5, 0.5, 0.5]
# Windows, blocks and buckets that fit a picture of a few dozen patches.
SMALL_WINDOWS: dict[str, Any] = {
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "simplicial_window": 16,
    "simplicial_second_window": 8,
    "bigbird_block_size": 4,
    "bigbird_num_random_blocks": 1,
    "lsh_chunk_length": 8,
    "lsh_num_buckets": 4,
    "lsh_num_hashes": 2,
    "performer_num_features": 32,
}


@dataclass
class ImageBenchmarkArguments:
    """Options of `trine benchmark images`."""

    files: list[str] = field(metadata={"help": "Training pictures, as for `trine train-images`."})
    test_files: list[str] = field(metadata={"help": "Pictures that the models are scored on."})
    output: str = field(metadata={"help": "JSON file that gets the figures."})
    attention_types: list[str] = field(
        default_factory=lambda: [*ATTENTION_KINDS],
        metadata={"help": "Kinds that are trained by themselves, each in every layer; 'full' beside the peer."},
    )
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of weights and batches."})
    steps: int = field(default=2000, metadata={"help": "Optimizer steps of each model."})
    batch_size: int = field(default=128, metadata={"help": "Pictures in a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Largest rate; it rises for a tenth and then falls."})
    image_size: int = field(default=28, metadata={"help": "Height and width of the pictures."})
    patch_size: int = field(default=7, metadata={"help": "Height and width of a patch."})
    hidden_size: int = field(default=96, metadata={"help": "Width of the models."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Their layers."})
    num_attention_heads: int = field(default=3, metadata={"help": "Their heads."})
    mixed_rounds: int = field(default=10, metadata={"help": "Steps with mixed sizes that are timed; 0 for none."})


def shape_of(arguments: ImageBenchmarkArguments, classes: int) -> dict[str, Any]:
    """The fields that both sides have."""
    sizes = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: getattr(arguments, name) for name in sizes}
    return {**shape, "intermediate_size": 2 * arguments.hidden_size, "num_labels": classes}


def make_models(arguments: ImageBenchmarkArguments, kind: str, classes: int, seed: int) -> dict[str, Any]:
    """The model with these layers; for `full` also the peer, with equal weights."""
    torch.manual_seed(seed)
    shape = shape_of(arguments, classes)
    peer = ViTForImageClassification(ViTConfig(**shape))
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(f"{folder}/vit")
        convert(f"{folder}/vit", f"{folder}/trine")
        if kind == "full":
            return {PEER: peer, kind: TrineForImageClassification.from_pretrained(f"{folder}/trine")}
        config = TrineConfig.from_pretrained(f"{folder}/trine", attention_types=kind, **SMALL_WINDOWS)
        torch.manual_seed(seed)
        return {kind: TrineForImageClassification(config)}


def batches(data: Pictures, arguments: ImageBenchmarkArguments, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless training batches, epoch by epoch, mirrored and moved a little."""
    draw, collate = np.random.default_rng(seed), PictureCollator(MEAN, MEAN, Augmentation(seed=seed))
    while True:
        order = draw.permutation(len(data))
        for start in range(0, len(order) - arguments.batch_size + 1, arguments.batch_size):
            yield collate([data[index] for index in order[start : start + arguments.batch_size]])


def train(models: dict[str, Any], source: Iterator[Any], arguments: Any, seed: int) -> dict[str, float]:
    """Trains the models on equal batches in turn; returns the CPU seconds of each, without the source's."""
    steps = arguments.steps
    optimizers = {
        name: torch.optim.AdamW(model.train().parameters(), lr=arguments.learning_rate, weight_decay=0.05, fused=True)
        for name, model in models.items()
    }
    rates = [min(step / max(1, steps // 10), 0.5 + 0.5 * np.cos(np.pi * step / steps)) for step in range(1, steps + 1)]
    seconds = dict.fromkeys(models, 0.0)
    for rate in tqdm(rates, desc=f"{', '.join(models)}, seed {seed}", mininterval=10):
        batch = next(source)
        for name, model in models.items():
            start = time.process_time()
            for group in optimizers[name].param_groups:
                group["lr"] = rate * arguments.learning_rate
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name] += time.process_time() - start
    return seconds


@torch.no_grad()
def accuracy(model: Any, data: Pictures) -> float:
    """The share of pictures whose class is found."""
    hits, collate = 0, PictureCollator(MEAN, MEAN)
    for start in range(0, len(data), 256):
        batch = collate([data[index] for index in range(start, min(start + 256, len(data)))])
        logits = model.eval()(pixel_values=batch["pixel_values"]).logits
        hits += int((logits.argmax(-1) == batch["labels"]).sum())
    return hits / len(data)


def mixed_sizes(arguments: ImageBenchmarkArguments, classes: int) -> dict[str, float]:
    """CPU seconds of a training step on pictures of mixed sizes: padded to the largest, and in one row without."""
    size, patch = arguments.image_size, arguments.patch_size
    config = TrineConfig(input_type="image", is_causal=False, position_type="rope", **shape_of(arguments, classes))
    model, draw = TrineForImageClassification(config).train(), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"padded": [], "row": []}
    for _ in range(arguments.mixed_rounds + 2):
        sides = draw.integers(1, 2 * size // patch + 1, (32, 2)) * patch
        pictures = [torch.randn(3, int(height), int(width)) for height, width in sides]
        largest = [int(side) for side in sides.max(0)]
        padded = torch.stack([pad(picture, largest) for picture in pictures])
        labels = torch.randint(classes, (32,))
        for name, values in (("padded", padded), ("row", pictures)):
            start = time.process_time()
            model(pixel_values=values, labels=labels).loss.backward()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times[2:]) for name, times in seconds.items()}


def pad(picture: torch.Tensor, largest: Sequence[int]) -> torch.Tensor:
    """A picture (channels, height, width) with zeros below and to the right."""
    below, right = (most - own for most, own in zip(largest, picture.shape[1:], strict=True))
    return torch.nn.functional.pad(picture, (0, right, 0, below))


def load(files: Sequence[str], names: Sequence[str] | None, size: int) -> tuple[Pictures, list[str]]:
    """The pictures of files, and the names of their classes, in the order of their numbers."""
    bad = BadRecords()
    examples = read_pictures(files, "image", "label", bad)
    bad.check()
    names = sorted({str(label) for _, label in examples}) if names is None else [*names]
    targets = [names.index(str(label)) for _, label in examples]
    return Pictures([source for source, _ in examples], targets, size), names


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark images` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([ImageBenchmarkArguments], argv, command="benchmark images", description=__doc__)
    torch.set_num_threads(1)
    with bad_input_ends():
        data, names = load(arguments.files, None, arguments.image_size)
        test, _ = load(arguments.test_files, names, arguments.image_size)
    rows: list[dict[str, Any]] = []
    for kind in arguments.attention_types:
        for seed in arguments.seeds:
            models = make_models(arguments, kind, len(names), seed)
            seconds = train(models, batches(data, arguments, seed), arguments, seed)
            for name, model in models.items():
                found = {"accuracy": accuracy(model, test), "cpu_seconds": seconds[name]}
                rows.append({"model": name, "seed": seed, **found, "parameters": model.num_parameters()})
                print(json.dumps(rows[-1]), flush=True)
    mixed = mixed_sizes(arguments, len(names)) if arguments.mixed_rounds else {}
    Path(arguments.output).write_text(json.dumps({"runs": rows, "mixed": mixed}, indent=2) + "\n", encoding="utf-8")
    print(table(rows, mixed))


def table(rows: Sequence[dict[str, Any]], mixed: dict[str, float]) -> str:
    """The figures as a Markdown table: means over seeds, with the least and the most."""
    lines = ["| model | parameters | accuracy | CPU seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        cells = [spread([row[key] for row in own], digits) for key, digits in (("accuracy", 3), ("cpu_seconds", 0))]
        lines.append(f"| {name} | {own[0]['parameters']:,} | {' | '.join(cells)} |")
    if mixed:
        lines += ["", f"Mixed sizes: {mixed['padded']:.3f} s a step padded, {mixed['row']:.3f} s in one row."]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """A mean with the least and the largest value."""
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
