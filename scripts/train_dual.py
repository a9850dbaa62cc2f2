"""Train a dual encoder on pictures with captions: vectors of both in one space."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from trine import TrineDualEncoder
from trine.scripts.arguments.dual import DualArguments, DualTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.jobs.captions import Captioned, fields_of, read_captioned
from trine.scripts.jobs.dual_models import load_dual, make_dual, side_of
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.reports.found import draw_found
from trine.scripts.train_images import AUGMENTATIONS, ImageTrainer
from trine.tokenization.records import BadRecords
from trine.training.data.captions import CaptionCollator
from trine.training.data.pictures import Augmentation, Pictures
from trine.training.finetuning import hold_out
from trine.training.measures.intervals import bootstrap_interval
from trine.training.measures.matching import nearest_classes, ranks, recall_at, unit_vectors


BATCH = 256  # texts or pictures that are scored at a time
DRAWN = 5  # queries that are drawn, unless others are named, and pictures for each


@dataclass
class Task:
    """Everything that training needs."""

    model: Any
    processor: Any
    train: list[Captioned]
    validation: list[Captioned]
    train_data: Pictures
    validation_data: Pictures
    checkpoint: str | None
    bad_records: int
    states: dict[str, torch.Tensor] | None = None  # of captions, where the stack that reads them stays as it is


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-dual` with these arguments, by default the process's."""
    types = [DualArguments, DualTrainingArguments]
    arguments, training = parse_arguments(types, argv, command="train-dual", description=__doc__)
    with bad_input_ends(StrictDataclassError):
        task = prepare(arguments, training)
    task.states = read_once(task, arguments)
    changes = AUGMENTATIONS[arguments.augmentation]
    augment = None if changes is None else Augmentation(**changes, seed=training.seed)
    trainer = ImageTrainer(
        task.model,
        training,
        training_collator=collator(task, arguments, augment, training.seed, task.states),
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        data_collator=collator(task, arguments),
        processing_class=task.processor,
        padding_free=False,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    with bad_input_ends():
        report(task, trainer, arguments)
    return 0


def read_once(task: Task, arguments: DualArguments) -> dict[str, torch.Tensor] | None:
    """The pooled states of training captions where a stack of Trine stays as it is, else None."""
    model: Any = task.model
    if not arguments.freeze_text or not isinstance(model, TrineDualEncoder):
        return None
    collate = collator(task, arguments)
    texts = list(dict.fromkeys(text for each in task.train for text in each.captions))
    return states_of(model, collate, texts)


def collator(
    task: Task, arguments: DualArguments, augment: Any = None, seed: int | None = None, states: Any = None
) -> CaptionCollator:
    """The collator of training, with changed pictures and drawn captions, or that of scores."""
    processor = task.processor.image_processor
    pooling = getattr(task.model.config, "text_pooling", "end" if "siglip" in task.model.config.model_type else "")
    options = {"max_length": arguments.max_length, "padding": "max_length" if pooling == "end" else True}
    return CaptionCollator(
        task.processor.tokenizer, processor.image_mean, processor.image_std, augment, seed, states=states, **options
    )


def prepare(arguments: DualArguments, training: DualTrainingArguments) -> Task:
    """Reads and splits the pictures, and loads or makes the model.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Pictures or records that cannot be read, or fields that do not fit.
        StrictDataclassError: A field of the config has the wrong type.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    fields_of(arguments.captions)
    options = arguments.image_field, arguments.captions, arguments.label_field, bad
    examples = read_captioned(arguments.files, *options)
    others = read_captioned(arguments.validation_files, *options)
    bad.check()
    first = [each.captions[0] for each in examples]
    split = arguments.validation_fraction, training.seed
    parts = (examples, others) if others else hold_out(examples, None, first, *split)
    if len(parts[0]) < 2 or len(parts[1]) < 2:
        raise ValueError(f"{len(parts[0])} pictures to train on and {len(parts[1])} to validate with are too few.")
    set_seed(training.seed)
    model, processor = make_model(arguments, [text for each in parts[0] for text in each.captions])
    if arguments.freeze_text:
        model.text_model.requires_grad_(False)
    size = side_of(processor)
    data = [Pictures([each.source for each in part], [each.captions for each in part], size) for part in parts]
    for pictures in data:
        for index in range(len(pictures)) if pictures.keeps else ():
            pictures[index]  # what cannot be read should not wait
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{len(data[0]):,} pictures to train on, {len(data[1]):,} to validate with; {trained:,} weights to train.")
    return Task(model, processor, [*parts[0]], [*parts[1]], data[0], data[1], checkpoint, bad.count)


def make_model(arguments: DualArguments, captions: Sequence[str]) -> tuple[Any, Any]:
    """The model that is named, or a new one, with its processor."""
    if arguments.model is not None:
        return load_dual(arguments.model, arguments.trust_remote_code)
    return make_dual(
        captions,
        {"image_size": arguments.image_size, "patch_size": arguments.patch_size},
        parse_overrides(arguments.config_overrides),
        arguments.text_model,
        arguments.vocab_size,
        arguments.max_length,
    )


def blocks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Items, some at a time."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def text_vectors(task: Task, collate: CaptionCollator, texts: Sequence[str]) -> torch.Tensor:
    """Vectors of length 1 of texts, which are read once where the stack stays as it is."""
    if task.states is None:
        return unit_vectors(task.model.get_text_features, map(collate.encode, blocks(texts)))
    new = [text for text in dict.fromkeys(texts) if text not in task.states]
    task.states |= states_of(task.model, collate, new)
    with torch.no_grad():
        vectors = task.model.text_projection(torch.stack([task.states[text] for text in texts]))
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def states_of(model: TrineDualEncoder, collate: CaptionCollator, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The pooled states of texts before their projection, (hidden,) each."""
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for block in blocks(texts):
            states: Any = model.eval().read_texts(**collate.encode(block)).pooler_output
            found |= zip(block, states, strict=True)
    return found


def image_vectors(task: Task, collate: CaptionCollator, data: Pictures) -> torch.Tensor:
    """Vectors of length 1 of pictures."""
    examples = ([data[index] for index in block] for block in blocks(range(len(data))))
    batches = (
        {"pixel_values": collate.pictures([{**each, "labels": 0} for each in block])["pixel_values"]}
        for block in examples
    )
    return unit_vectors(task.model.get_image_features, batches)


def report(task: Task, trainer: ImageTrainer, arguments: DualArguments) -> None:
    """Scores the model beside chance, saves, and draws pictures that are found by words."""
    task.model.eval()
    collate = collator(task, arguments)
    device = task.model.device
    task.model.cpu()
    images = image_vectors(task, collate, task.validation_data)
    known, own = ([each.captions[0] for each in part] for part in (task.train, task.validation))
    texts = list(dict.fromkeys([*own, *known]))
    places = {text: place for place, text in enumerate(texts)}
    vectors = text_vectors(task, collate, texts)
    similarities = images @ vectors.T
    among_all = ranks(similarities, [places[text] for text in own])
    among_own = ranks(similarities[:, : len(set(own))], [places[text] for text in own])
    scores, intervals, chance = {}, {}, {}
    for name, found, count in (("", among_own, len(set(own))), (" of all", among_all, len(texts))):
        for k in (1, 10):
            hits = recall_at(found, k)
            scores[f"R@{k}{name}"], chance[f"R@{k}{name}"] = float(hits.mean()), min(1.0, k / count)
            intervals[f"R@{k}{name}"] = bootstrap_interval(hits)
    if arguments.label_field is not None:
        hits, most = class_hits(task, collate, images)
        scores["class"], chance["class"], intervals["class"] = float(hits.mean()), most, bootstrap_interval(hits)
    task.model.to(device)
    metrics = {
        "scores": {"model": scores, "chance": chance},
        "intervals": intervals,
        "training_records": len(task.train),
        "validation_records": len(task.validation),
        "bad_records": task.bad_records,
        "parameters": task.model.num_parameters(),
        **figures_of(trainer),
    }
    if (folder := save(trainer)) is None:
        return
    write_report(trainer, folder, metrics, unit="nats per pair")
    queries = arguments.queries or own[:: max(1, len(own) // DRAWN)][:DRAWN]
    order = (text_vectors(task, collate, queries) @ images.T).argsort(1, descending=True)[:, :DRAWN]
    draw_found(queries, order.tolist(), task.validation_data, own, Path(folder) / "found.png")
    print(described(metrics))


def class_hits(task: Task, collate: CaptionCollator, images: torch.Tensor) -> tuple[np.ndarray, float]:
    """Whether the class of each held-out picture is found, and the share of the most frequent.

    The class is that whose training captions have the nearest mean; no training picture is looked at.
    """
    names = sorted({str(each.label) for each in task.train})
    texts = [(text, names.index(str(each.label))) for each in task.train for text in each.captions]
    vectors = text_vectors(task, collate, [text for text, _ in texts])
    found = nearest_classes(images, vectors, [number for _, number in texts], len(names))
    expected = np.array([names.index(str(each.label)) if str(each.label) in names else -1 for each in task.validation])
    counts = np.bincount([number for _, number in texts], minlength=len(names))
    return (found == expected).astype(float), float((expected == counts.argmax()).mean())


def described(metrics: dict[str, Any]) -> str:
    """The scores with their intervals, beside chance."""
    scores, chance = metrics["scores"]["model"], metrics["scores"]["chance"]
    lines = [f"\n{metrics['validation_records']:,} held-out pictures:"]
    for name, value in scores.items():
        low, high = metrics["intervals"][name]
        lines.append(f"{name:>12}  {value:.3f} ({low:.3f} to {high:.3f}), by chance {chance[name]:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
