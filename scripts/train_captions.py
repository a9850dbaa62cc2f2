"""Train a captioner on pictures with captions: a decoder that reads pictures, and writes what they show."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from trine.scripts.arguments.captions import CaptionArguments, CaptionTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.jobs.caption_models import load_captioner, make_captioner
from trine.scripts.jobs.captions import fields_of, read_captioned
from trine.scripts.jobs.dual_models import side_of
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.train_dual import blocks
from trine.scripts.train_images import AUGMENTATIONS, ImageTrainer
from trine.tokenization.records import BadRecords
from trine.training.data.captions import WrittenCaptionCollator
from trine.training.data.pictures import Augmentation, Pictures
from trine.training.finetuning import hold_out
from trine.training.measures.intervals import bootstrap_interval
from trine.training.measures.matching import nearest_rows
from trine.training.measures.overlap import word_f1, words_of


SHOWN = 5  # captions that are printed
BASELINE = "caption of the nearest picture by pixels"


@dataclass
class Task:
    """Everything that training needs."""

    model: Any
    processor: Any
    train: Pictures
    validation: Pictures
    checkpoint: str | None
    bad_records: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-captions` with these arguments, by default the process's."""
    types = [CaptionArguments, CaptionTrainingArguments]
    arguments, training = parse_arguments(types, argv, command="train-captions", description=__doc__)
    with bad_input_ends(StrictDataclassError):
        task = prepare(arguments, training)
        plain = collator(task, arguments)
    changes = AUGMENTATIONS[arguments.augmentation]
    augment = None if changes is None else Augmentation(**changes, seed=training.seed)
    trainer = ImageTrainer(
        task.model,
        training,
        training_collator=collator(task, arguments, augment, training.seed),
        train_dataset=task.train,
        eval_dataset=task.validation,
        data_collator=plain,
        processing_class=task.processor,
        padding_free=False,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    report(task, trainer, arguments)
    return 0


def collator(task: Task, arguments: CaptionArguments, augment: Any = None, seed: int | None = None) -> Any:
    """The collator of training, with changed pictures and drawn captions, or that of scores.

    Raises:
        ValueError: The tokenizer ends each text, so that nothing could be written after a picture.
    """
    processor, tokenizer = task.processor.image_processor, task.processor.tokenizer
    picture = task.train[0]["picture"]
    prompt = task.processor(images=picture, text=task.processor.image_token, return_tensors="pt")["input_ids"][0]
    if prompt[-1] != task.model.config.image_token_id:
        name = tokenizer.convert_ids_to_tokens(int(prompt[-1]))
        raise ValueError(f"The tokenizer puts {name!r} after a picture, where the caption should begin.")
    statistics = processor.image_mean, processor.image_std
    options = {"max_length": arguments.max_length, "prompt": prompt.tolist()}
    return WrittenCaptionCollator(tokenizer, *statistics, augment, seed, **options)


def prepare(arguments: CaptionArguments, training: CaptionTrainingArguments) -> Task:
    """Reads and splits the pictures, and loads or makes the model.

    Raises:
        OSError: Files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: Pictures or records that cannot be read, or fields that do not fit.
        StrictDataclassError: A field of the config has the wrong type.
    """
    checkpoint, bad = begin(training), BadRecords(arguments.skip_bad_records)
    fields_of(arguments.captions)
    options = arguments.image_field, arguments.captions, None, bad
    examples = read_captioned(arguments.files, *options)
    others = read_captioned(arguments.validation_files, *options)
    bad.check()
    first = [each.captions[0] for each in examples]
    split = arguments.validation_fraction, training.seed
    parts = (examples, others) if others else hold_out(examples, None, first, *split)
    if len(parts[0]) < 2 or len(parts[1]) < 2:
        raise ValueError(f"{len(parts[0])} pictures to train on and {len(parts[1])} to score with are too few.")
    set_seed(training.seed)
    if arguments.model is not None:
        model, processor = load_captioner(arguments.model)
    else:
        texts = [text for each in parts[0] for text in each.captions]
        sizes = {"image_size": arguments.image_size, "patch_size": arguments.patch_size}
        overrides = parse_overrides(arguments.config_overrides)
        model, processor = make_captioner(texts, sizes, overrides, arguments.text_model, arguments.vocab_size)
    size = side_of(processor)
    data = [Pictures([each.source for each in part], [each.captions for each in part], size) for part in parts]
    for pictures in data:
        for index in range(len(pictures)) if pictures.keeps else ():
            pictures[index]  # what cannot be read should not wait
    print(
        f"{len(data[0]):,} pictures to train on, {len(data[1]):,} to score with; {model.num_parameters():,} weights."
    )
    return Task(model, processor, data[0], data[1], checkpoint, bad.count)


@torch.no_grad()
def write_captions(model: Any, collate: WrittenCaptionCollator, data: Pictures) -> list[str]:
    """The captions that the model writes, one a picture, by greedy search."""
    written: list[str] = []
    tokenizer = collate.tokenizer
    for block in blocks(range(len(data))):
        pictures = collate.pictures([{**data[index], "labels": 0} for index in block])["pixel_values"]
        prompts = torch.tensor(collate.prompt).expand(len(block), -1)
        ids = model.generate(
            prompts.to(model.device),
            pixel_values=pictures.to(model.device),
            max_new_tokens=collate.max_length,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        written += tokenizer.batch_decode(ids[:, prompts.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in written]


def captions_by_pixels(known: Pictures, asked: Pictures) -> list[str]:
    """The first caption of the training picture that is nearest to each held-out one, pixel by pixel."""

    def pixels(data: Pictures, block: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([data[index]["picture"].reshape(-1) for index in block])).float()

    found: list[int] = []
    for block in blocks(range(len(asked))):
        found += nearest_rows(
            pixels(asked, block), (pixels(known, each) for each in blocks(range(len(known))))
        ).tolist()
    return [known.targets[index][0] for index in found]


def report(task: Task, trainer: ImageTrainer, arguments: CaptionArguments) -> None:
    """Scores the captions beside those of the nearest pictures, saves all of them, and prints some."""
    expected = [captions[0] for captions in task.validation.targets]
    texts = {
        "model": write_captions(task.model.eval(), collator(task, arguments), task.validation),
        BASELINE: captions_by_pixels(task.train, task.validation),
    }
    values = {name: scores_of(written, expected) for name, written in texts.items()}
    intervals = {
        name: {score: bootstrap_interval(each) for score, each in found.items()} for name, found in values.items()
    }
    differences = {score: each - values[BASELINE][score] for score, each in values["model"].items()}
    intervals["difference"] = {score: bootstrap_interval(each) for score, each in differences.items()}
    metrics = {
        "scores": {
            name: {score: float(each.mean()) for score, each in found.items()} for name, found in values.items()
        },
        "intervals": intervals,
        "training_records": len(task.train),
        "validation_records": len(task.validation),
        "bad_records": task.bad_records,
        "parameters": task.model.num_parameters(),
        **figures_of(trainer),
    }
    task.model.generation_config.max_new_tokens = arguments.max_length
    if (folder := save(trainer)) is None:
        return
    write_report(trainer, folder, metrics)
    rows = zip(expected, texts["model"], texts[BASELINE], strict=True)
    lines = [
        json.dumps(dict(zip(("caption", "written", "nearest"), row, strict=True)), ensure_ascii=False) for row in rows
    ]
    (Path(folder) / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(described(metrics, texts["model"], expected))


def scores_of(written: Sequence[str], expected: Sequence[str]) -> dict[str, np.ndarray]:
    """For each text the F1 of its words, and whether they are those expected, in order."""
    pairs = [*zip(written, expected, strict=True)]
    return {
        "word F1": np.array([word_f1(*pair) for pair in pairs]),
        "exact": np.array([float(words_of(one) == words_of(other)) for one, other in pairs]),
    }


def described(metrics: dict[str, Any], written: Sequence[str], expected: Sequence[str]) -> str:
    """Some captions, and the scores with their intervals."""
    count = len(expected)
    lines = [f"{expected[place]!r}: {written[place]!r}" for place in range(0, count, max(1, count // SHOWN))][:SHOWN]
    lines = ["", "What was expected, and what is written:", *lines, "", f"{count:,} held-out pictures:"]
    for name, scores in metrics["scores"].items():
        parts = []
        for score, value in scores.items():
            low, high = metrics["intervals"][name][score]
            parts.append(f"{score} {value:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"{name}: {', '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
