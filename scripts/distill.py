"""Distil a model into a smaller one, or one of other kinds, that learns to give what its teacher gives."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import set_seed

from trine.scripts.arguments.distillation import DistillArguments, DistillTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.jobs.cut_texts import say_cut
from trine.scripts.jobs.distillation_data import DistillationCollator, make_features, masks_tokens, read_texts
from trine.scripts.jobs.distillation_models import Models, load_models, pooling_of, save_encoder, teacher_vectors
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.jobs.written_targets import write_targets
from trine.training.data.padding_free import takes_packed_rows
from trine.training.objectives.distillation.base import DistillationOptions
from trine.training.objectives.distillation.sequences import SequencesObjective
from trine.training.run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from trine.training.run.distillation import DistillationTrainer
from trine.training.run.freezing import PartialTraining
from trine.training.run.monitoring import EnergyCallback
from trine.training.run.trainers import keep_use_cache


@dataclass
class Task:
    """Everything that training needs."""

    models: Models
    trainer: DistillationTrainer
    pooling: str | None
    energy: list[EnergyCallback]
    checkpoint: str | None
    metrics: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine distill` with these arguments, by default the process's."""
    types = [DistillArguments, PartialTrainingArguments, DistillTrainingArguments]
    arguments, partial, training = parse_arguments(types, argv, command="distill", description=__doc__)
    with bad_input_ends(ImportError):
        task = prepare(arguments, partial, training)
    restore_use_cache = keep_use_cache(task.models.student.config)
    scores = {"before": evaluate(task.trainer)}
    if not train(task.trainer, task.checkpoint):
        return INTERRUPTED
    scores["after"] = evaluate(task.trainer)
    restore_use_cache()
    finish(arguments, task, scores)
    return 0


def prepare(arguments: DistillArguments, partial: PartialTraining, training: DistillTrainingArguments) -> Task:
    """Load the models, read the texts and make the trainer.

    Raises:
        OSError: A file or model cannot be read, or the output folder cannot be written.
        ValueError: Arguments are wrong or do not fit together, or records cannot be used.
    """
    checkpoint = begin(training)
    energy = [EnergyCallback(arguments.energy_country)] if arguments.energy_country else []
    texts, held_out, metrics = read_texts(arguments, training.seed)
    texts = enough(texts, training)
    metrics["used_texts"] = len(texts)
    set_seed(training.seed)
    models = load_models(arguments, training.device)
    student, embeds, pooling = models.student, "embeddings" in arguments.objective, None
    if "sequences" in arguments.objective:
        SequencesObjective(student, None, arguments)  # refuses a student before its teacher writes for long
        size = training.per_device_eval_batch_size
        texts, held_out, metrics["empty_targets"] = written(models.teacher, texts, held_out, arguments, size)
    made = [make_features(student, models.tokenizers, part, arguments) for part in (texts, held_out)]
    cut, what = sum(number for _, number in made), "texts"
    if "teacher" in models.tokenizers:
        print(
            f"{cut:,} texts are left out: the tokenizers of teacher and student cut them into other numbers of tokens."
        )
    else:
        say_cut(cut, len(texts) + len(held_out), what, arguments.max_length)
    teacher = models.teacher.model if "sequences" in arguments.objective else models.teacher
    options: dict[str, Any] = {"teacher_model": None if embeds else teacher}
    if embeds:
        pooling = pooling_of(models.teacher, arguments.pooling)
        models.teacher.to(training.device)
        vectors = teacher_vectors(models.teacher, [*texts, *held_out], arguments, training.per_device_eval_batch_size)
        for feature, vector in zip([each for part, _ in made for each in part], vectors, strict=True):
            feature["teacher_embeddings"] = vector
        options["embeddings"] = {"size": vectors.shape[1], "pooling": pooling}
    partial.apply(student, processes=training.world_size)
    probability = arguments.mlm_probability if masks_tokens(student, arguments) else None
    packs = takes_packed_rows(student, training)
    trainer = DistillationTrainer(
        student,
        training,
        train_dataset=made[0][0],  # pyright: ignore[reportArgumentType] a list is a dataset
        eval_dataset=made[1][0],  # pyright: ignore[reportArgumentType]
        data_collator=DistillationCollator(models.tokenizers["student"], probability, packs),
        processing_class=models.tokenizers["student"],
        callbacks=[ExpertLoadCallback(), RandomFeatureCallback(), *energy],
        distillation=DistillationOptions(
            **{each.name: getattr(arguments, each.name) for each in fields(DistillationOptions)}
        ),
        partial=partial,
        **options,
    )
    print("\n".join([*models.lines, f"Batches {'without' if packs else 'with'} padding."]))
    return Task(models, trainer, pooling, energy, checkpoint, {**metrics, "cut_texts": cut, **models.figures})


def enough(texts: list[Any], training: DistillTrainingArguments) -> list[Any]:
    """The texts that `max_steps` read at most, drawn at random: others would be embedded for nothing."""
    number = training.max_steps * training.train_batch_size * training.gradient_accumulation_steps
    if not 0 < number < len(texts):
        return texts
    print(f"{number:,} of {len(texts):,} texts, drawn at random, are all that max_steps={training.max_steps} reads.")
    return random.Random(training.seed).sample(texts, number)


def written(
    teacher: Any, texts: list[str], held_out: list[str], arguments: DistillArguments, batch_size: int
) -> tuple[list[Any], list[Any], int]:
    """Texts to train on and held out, each with what the teacher writes, and for how many it writes nothing."""
    pairs, others = (write_targets(teacher, part, arguments, batch_size) for part in (texts, held_out))
    empty = len(texts) + len(held_out) - len(pairs) - len(others)
    print(f"The teacher wrote {len(pairs) + len(others):,} texts, and nothing for {empty:,}.")
    return pairs, others, empty


def evaluate(trainer: DistillationTrainer) -> dict[str, float]:
    """The losses on the texts that are held out; masked tokens are the same each time."""
    set_seed(trainer.args.seed)
    metrics = trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in metrics.items() if "loss" in name}


def finish(arguments: DistillArguments, task: Task, scores: dict[str, dict[str, float]]) -> None:
    """Save the student with its tokenizers, write metrics.json and the card, and print the losses."""
    projections = task.trainer.projections
    folder = save(task.trainer)
    if folder is None:
        return
    target = task.models.tokenizers["target"]
    if target is not task.models.tokenizers["student"]:
        target.save_pretrained(str(folder / "target_tokenizer"))
    if task.pooling is not None:
        projection = None if projections is None else projections["embeddings_map"]
        save_encoder(folder, task.models.teacher, task.pooling, projection, arguments.max_length)
    tell_origin(folder / "README.md", arguments)
    metrics = {"scores": scores, **task.metrics, **figures_of(task.trainer)}
    metrics |= {name: value for callback in task.energy for name, value in callback.figures().items()}
    write_report(task.trainer, folder, metrics, unit="loss")
    print(f"\nOn {metrics['validation_texts']:,} texts that were held out:")
    for name in scores["after"]:
        print(f"{name:>16}  before {scores['before'].get(name, float('nan')):.4f}  after {scores['after'][name]:.4f}")


def tell_origin(card: Path, arguments: DistillArguments) -> None:
    """Says in the card what the model was distilled from."""
    if card.is_file():
        name, what = Path(arguments.teacher).name, ", ".join(arguments.objective)
        text = card.read_text(encoding="utf-8").rstrip("\n")
        card.write_text(f"{text}\n\nDistilled from `{name}` by its {what}.\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
