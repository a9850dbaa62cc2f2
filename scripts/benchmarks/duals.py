"""Train dual encoders of pictures and captions beside transformers' CLIP: equal weights, batches and steps."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from trine import TrineDualEncoder, convert, train_wordpiece
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks.images import MEAN, spread, train
from trine.scripts.jobs.captions import Captioned, fields_of, read_captioned
from trine.scripts.jobs.job import bad_input_ends
from trine.scripts.train_dual import blocks
from trine.tokenization.records import BadRecords
from trine.training.data.captions import CaptionCollator
from trine.training.data.pictures import Augmentation, Pictures
from trine.training.measures.matching import ranks, recall_at, unit_vectors


PEER, OWN = "transformers' CLIP", "TrineDualEncoder"


@dataclass
class DualBenchmarkArguments:
    """Options of `trine benchmark duals`."""

    files: list[str] = field(metadata={"help": "Training pictures with captions, as for `trine train-dual`."})
    test_files: list[str] = field(metadata={"help": "Pictures with captions that the models are scored on."})
    output: str = field(metadata={"help": "JSON file that gets the figures."})
    image_field: str = field(default="image", metadata={"help": "Name of the picture in a record."})
    captions: list[str] = field(
        default_factory=lambda: ["{text}"], metadata={"help": "What captions are made of, as for `trine train-dual`."}
    )
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of weights and batches."})
    steps: int = field(default=300, metadata={"help": "Optimizer steps of each model."})
    batch_size: int = field(default=128, metadata={"help": "Pairs in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Largest rate; it rises for a tenth and then falls."})
    image_size: int = field(default=32, metadata={"help": "Height and width of the pictures."})
    patch_size: int = field(default=8, metadata={"help": "Height and width of a patch."})
    hidden_size: int = field(default=128, metadata={"help": "Width of both stacks, and of the vectors."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of each stack."})
    num_attention_heads: int = field(default=4, metadata={"help": "Their heads."})
    vocab_size: int = field(default=1500, metadata={"help": "Tokens of the tokenizer, which both sides have."})
    max_length: int = field(default=32, metadata={"help": "Tokens after which a caption is cut off."})


def make_models(arguments: DualBenchmarkArguments, tokenizer: Any, seed: int) -> dict[str, Any]:
    """The peer, and a model of Trine with equal weights."""
    torch.manual_seed(seed)
    shape = {name: getattr(arguments, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    shape["intermediate_size"] = 4 * arguments.hidden_size
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    text = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **ids}
    config = CLIPConfig(
        text_config={**shape, **text, "max_position_embeddings": arguments.max_length},
        vision_config={**shape, "image_size": arguments.image_size, "patch_size": arguments.patch_size},
        projection_dim=arguments.hidden_size,
    )
    peer = CLIPModel(config)
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(f"{folder}/clip")
        convert(f"{folder}/clip", f"{folder}/trine")
        return {PEER: peer, OWN: TrineDualEncoder.from_pretrained(f"{folder}/trine")}


def batches(
    data: Pictures, tokenizer: Any, arguments: DualBenchmarkArguments, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless training batches, epoch by epoch, mirrored and moved a little."""
    draw, augment = np.random.default_rng(seed), Augmentation(seed=seed)
    collate = CaptionCollator(tokenizer, MEAN, MEAN, augment, seed, max_length=arguments.max_length)
    while True:
        order = draw.permutation(len(data))
        for start in range(0, len(order) - arguments.batch_size + 1, arguments.batch_size):
            yield collate([data[index] for index in order[start : start + arguments.batch_size]])


def found_among_ten(model: Any, data: Pictures, tokenizer: Any, max_length: int) -> float:
    """The share of pictures whose own caption is among the ten nearest of all captions of these pictures."""
    collate = CaptionCollator(tokenizer, MEAN, MEAN, max_length=max_length)
    own = [captions[0] for captions in data.targets]
    texts = list(dict.fromkeys(own))
    examples = ([{**data[index], "labels": 0} for index in block] for block in blocks(range(len(data))))
    pictures = ({"pixel_values": collate.pictures(each)["pixel_values"]} for each in examples)
    images = unit_vectors(model.eval().get_image_features, pictures)
    similarities = images @ unit_vectors(model.get_text_features, map(collate.encode, blocks(texts))).T
    return float(recall_at(ranks(similarities, [texts.index(text) for text in own]), 10).mean())


def load(arguments: DualBenchmarkArguments) -> tuple[list[Captioned], list[Captioned]]:
    """The pictures to train on, and those to score with.

    Raises:
        OSError: A file cannot be read.
        ValueError: A record cannot be used, or there are fewer pictures than a batch holds.
    """
    fields_of(arguments.captions)
    bad = BadRecords()
    parts = [
        read_captioned(files, arguments.image_field, arguments.captions, None, bad)
        for files in (arguments.files, arguments.test_files)
    ]
    bad.check()
    if len(parts[0]) < arguments.batch_size:
        raise ValueError(f"batch_size={arguments.batch_size} must be at most {len(parts[0])}, the pictures of files.")
    return parts[0], parts[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark duals` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([DualBenchmarkArguments], argv, command="benchmark duals", description=__doc__)
    torch.set_num_threads(1)
    with bad_input_ends():
        parts = load(arguments)
        texts = [text for each in parts[0] for text in each.captions]
        length = {"model_max_length": arguments.max_length}
        tokenizer = train_wordpiece(texts, arguments.vocab_size, show_progress=False, **length)
    size = arguments.image_size
    data, test = (Pictures([each.source for each in part], [each.captions for each in part], size) for part in parts)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        models = make_models(arguments, tokenizer, seed)
        seconds = train(models, batches(data, tokenizer, arguments, seed), arguments, seed)
        for name, model in models.items():
            found = found_among_ten(model, test, tokenizer, arguments.max_length)
            rows.append({"model": name, "seed": seed, "recall_at_10": found, "cpu_seconds": seconds[name]})
            rows[-1]["parameters"] = model.num_parameters()
            print(json.dumps(rows[-1]), flush=True)
    Path(arguments.output).write_text(json.dumps({"runs": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a Markdown table: means over seeds, with the least and the most."""
    lines = ["| model | parameters | R@10 | CPU seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        cells = [
            spread([row[key] for row in own], digits) for key, digits in (("recall_at_10", 3), ("cpu_seconds", 0))
        ]
        lines.append(f"| {name} | {own[0]['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
