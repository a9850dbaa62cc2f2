"""Train an encoder or a decoder to embed texts, so that pairs lie together; compared with BM25."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    PreTrainedConfig,
    set_seed,
)

from trine.retrieval.scores import Retrieval
from trine.scripts.arguments.embeddings import (
    LOSSES,
    SPLADE,
    EmbeddingArguments,
    EmbeddingTrainingArguments,
)
from trine.scripts.arguments.hard_negatives import HardNegativeArguments
from trine.scripts.arguments.lora import ADAPTER, OptionalLoraArguments, count_parameters, remove_adapter
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.jobs.cut_texts import count_cut_rows
from trine.scripts.jobs.embedding_trainer import EmbeddingTrainer
from trine.scripts.jobs.encoders import check_weights
from trine.scripts.jobs.finetuning import load_parts
from trine.scripts.jobs.hard_negatives import mine_rows
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.jobs.pair_files import Pair, read_and_split
from trine.scripts.jobs.score_tables import describe, summarize
from trine.scripts.jobs.splade import SpladeJob
from trine.scripts.jobs.vectors import VectorJob, check_options, make_dataset
from trine.training.new_heads import without_load_report
from trine.training.run.callbacks import RandomFeatureCallback
from trine.training.run.freezing import PartialTraining


DEFAULT_POOLING = {False: "mean", True: "lasttoken"}  # by whether the model is a decoder


@dataclass
class Task:
    """Everything that training needs, and the figures of the data for metrics.json."""

    model: SentenceTransformer
    train_pairs: list[Pair]
    groups: list[str]  # of the training pairs; empty where they have none
    validation_pairs: list[Pair]
    checkpoint: str | None
    metrics: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine train-embeddings` with these arguments, by default the process's."""
    types = [EmbeddingArguments, HardNegativeArguments, PartialTrainingArguments, OptionalLoraArguments]
    types.append(EmbeddingTrainingArguments)
    parsed = parse_arguments(types, argv, command="train-embeddings", description=__doc__)
    arguments, negatives, partial, lora, training = parsed
    if arguments.outputs:
        return train_vectors(*parsed)
    with bad_input_ends(ImportError):
        task = prepare(arguments, negatives, partial, lora, training)
    retrieval = Retrieval.from_pairs(task.validation_pairs)
    batch_size = training.per_device_eval_batch_size
    scores = {"bm25": retrieval.score_bm25()} if arguments.bm25 else {}
    scores["before"] = retrieval.score(task.model, batch_size)
    trainer = EmbeddingTrainer(
        task.model,
        training,
        train_dataset=make_dataset(task.train_pairs),
        eval_dataset=make_dataset(task.validation_pairs),
        loss=make_loss(arguments, task.model),
        evaluator=retrieval.evaluator(batch_size),
        # Random features belong to the base, which adapters leave as it is.
        callbacks=[] if lora.lora else [RandomFeatureCallback()],
        partial=partial,
        groups=task.groups,
        together=arguments.group_size,
    )
    if not train(trainer, task.checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    for size in (None, *arguments.matryoshka_dims):
        name = "after" if size is None else f"after_{size}"
        scores[name] = retrieval.score(task.model, batch_size, size)
    finish(arguments, lora, task, trainer, scores)
    return 0


def train_vectors(
    arguments: EmbeddingArguments,
    negatives: HardNegativeArguments,
    partial: PartialTraining,
    lora: OptionalLoraArguments,
    training: EmbeddingTrainingArguments,
) -> int:
    """Train what `outputs` names, a `TrineForRetrieval` or SPLADE; returns the exit status."""
    with bad_input_ends(ImportError):
        check_options(arguments, [partial, lora])
        checkpoint = begin(training)
        train_pairs, _, validation_pairs, metrics = read_pairs(arguments, training.seed)
        train_pairs, metrics = add_negatives(train_pairs, metrics, arguments, negatives, training)
        set_seed(training.seed)
        job = (SpladeJob if arguments.outputs == [SPLADE] else VectorJob)(arguments, training)
    retrieval = Retrieval.from_pairs(validation_pairs)
    scores = {"bm25": retrieval.score_bm25()} if arguments.bm25 else {}
    scores |= job.score(retrieval, "before")
    trainer = job.trainer(train_pairs, validation_pairs)
    if not train(trainer, checkpoint, arguments.early_stopping_patience):
        return INTERRUPTED
    scores |= job.score(retrieval, "after")
    metrics = {**summarize(scores), **metrics, **job.figures, **figures_of(trainer)}
    folder = save(trainer)
    if folder is not None:
        write_report(trainer, folder, metrics, unit="nats per query")
        print(f"\n{describe(metrics)}\n{job.describe()}".rstrip())
    return 0


def prepare(
    arguments: EmbeddingArguments,
    negatives: HardNegativeArguments,
    partial: PartialTraining,
    lora: OptionalLoraArguments,
    training: EmbeddingTrainingArguments,
) -> Task:
    """Read and split the pairs, and load the model.

    Raises:
        OSError: files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: arguments that are wrong or do not fit together, records that cannot be used, or a checkpoint
            without some of the weights.
    """
    checkpoint = begin(training)
    train_pairs, groups, validation_pairs, metrics = read_pairs(arguments, training.seed)
    train_pairs, metrics = add_negatives(train_pairs, metrics, arguments, negatives, training)
    set_seed(training.seed)
    model = load_model(arguments, "cpu" if training.use_cpu else None)
    backbone: Any = model.transformers_model
    if arguments.text_field is not None and arguments.views == "dropout":
        check_dropout(arguments.model, backbone.config)
    size = int(model.get_embedding_dimension() or 0)
    if any(not 0 < each <= size for each in arguments.matryoshka_dims):
        raise ValueError(f"matryoshka_dims={arguments.matryoshka_dims} are not all from 1 to the model's {size}.")
    longest = arguments.max_length
    metrics["truncated_pairs"] = count_cut_rows(model.tokenizer, train_pairs, validation_pairs, max_length=longest)
    if lora.lora:
        model.add_adapter(lora.make_config(backbone, task_type="FEATURE_EXTRACTION"))
    partial.apply(model, processes=training.world_size)
    return Task(model, train_pairs, groups, validation_pairs, checkpoint, {**metrics, **count_parameters(model)})


def read_pairs(arguments: EmbeddingArguments, seed: int) -> tuple[list[Pair], list[str], list[Pair], dict[str, int]]:
    """Reads what `read_and_split` does, by the command's options."""
    if arguments.bm25 and find_spec("bm25s") is None:
        raise ValueError("bm25=True needs bm25s: pip install 'trine[embeddings]', or choose --bm25 false.")
    options = {name: getattr(arguments, name) for name in ("text_field", "views", "group_field")}
    return read_and_split(arguments, seed, **options)


def add_negatives(
    pairs: list[Pair],
    metrics: dict[str, Any],
    arguments: EmbeddingArguments,
    negatives: HardNegativeArguments,
    training: EmbeddingTrainingArguments,
) -> tuple[list[Pair], dict[str, Any]]:
    """Training pairs with mined negatives after their own ones, and their numbers beside the other metrics.

    They are mined among the training pairs, so that none is a text that is held out.

    Raises:
        ImportError: BM25 searches, and bm25s is not installed.
        OSError: The miner cannot be read, or the cache cannot be written.
        ValueError: They do not go with `text_field`, or there are too few texts.
    """
    if not negatives.hard_negatives:
        return pairs, metrics
    if arguments.text_field is not None:
        raise ValueError(
            f"hard_negatives={negatives.hard_negatives} belong to pairs; with text_field='{arguments.text_field}' "
            "what is found first may say the same."
        )
    mined = mine_rows(
        pairs,
        negatives,
        seed=training.seed,
        batch_size=training.per_device_eval_batch_size,
        device="cpu" if training.use_cpu else None,
        trust_remote_code=arguments.trust_remote_code,
    )
    counts = {"hard_negatives": negatives.hard_negatives, "drawn_negatives": mined.drawn, "miner": mined.miner}
    return [(*pair, *row[2:]) for pair, row in zip(pairs, mined.rows, strict=True)], {**metrics, **counts}


def load_model(arguments: EmbeddingArguments, device: str | None = None) -> SentenceTransformer:
    """The model with its pooling; all of its weights come from the checkpoint, or none with `random_weights`."""
    code: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    options = {"dtype": "float32", "ignore_mismatched_sizes": arguments.random_weights}
    try:
        config, tokenizer = load_parts(arguments)
        with without_load_report():  # `check_weights` says what matters
            model = SentenceTransformer(arguments.model, device=device, model_kwargs=options, **code)
    except OSError as error:
        raise OSError(f"model='{arguments.model}' cannot be read: {error}") from error
    transformer: Any = model[0]
    if arguments.random_weights:
        transformer.model = AutoModel.from_config(config, **code).to(model.device)
    else:
        check_weights(arguments.model, transformer.model, code)
    tokenizer.model_max_length = arguments.max_length
    transformer.processor = tokenizer
    has_own_pooling = (Path(arguments.model) / "modules.json").exists()
    pooling: Any = arguments.pooling or (None if has_own_pooling else DEFAULT_POOLING[is_decoder(config)])
    if pooling is not None:
        places = [name for name, module in model.named_children() if isinstance(module, Pooling)]
        if len(places) != 1:
            raise ValueError(
                f"pooling='{pooling}' cannot be set: model='{arguments.model}' has {len(places)} poolings."
            )
        model.add_module(places[0], Pooling(config.get_text_config().hidden_size, pooling))
    return model


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether a config is of a decoder."""
    if (is_causal := getattr(config, "is_causal", None)) is not None:
        return is_causal
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def check_dropout(name: str, config: PreTrainedConfig) -> None:
    """Raises a ValueError for a model without dropout, to which a text is the same twice."""
    rates = {key: value for key, value in config.to_dict().items() if "dropout" in key and "classifier" not in key}
    if not any(isinstance(rate, float) and rate > 0 for rate in rates.values()):
        raise ValueError(
            f"views='dropout' needs dropout, and model='{name}' has {rates}: both views of a text would be equal. "
            "Choose views='crops', or raise a rate in its config.json."
        )


def make_loss(arguments: EmbeddingArguments, model: SentenceTransformer) -> nn.Module:
    """The loss that the arguments name."""
    loss_class, names = LOSSES[arguments.loss]
    loss = loss_class(model, **{name: getattr(arguments, name) for name in names})
    return MatryoshkaLoss(model, loss, arguments.matryoshka_dims) if arguments.matryoshka_dims else loss


def finish(
    arguments: EmbeddingArguments,
    lora: OptionalLoraArguments,
    task: Task,
    trainer: EmbeddingTrainer,
    scores: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Save, draw, and print the scores beside each other."""
    metrics = {**summarize(scores), **task.metrics, **figures_of(trainer)}
    folder = save(trainer, Path(str(trainer.args.output_dir)) / ADAPTER if lora.merge else None)
    if folder is None:
        return
    if lora.merge:
        transformer: Any = task.model[0]
        base = AutoModel.from_pretrained(
            transformer.model.name_or_path, dtype="float32", trust_remote_code=arguments.trust_remote_code
        )
        transformer.model = PeftModel.from_pretrained(base, str(folder / ADAPTER)).merge_and_unload()
        remove_adapter(folder)
        task.model.save_pretrained(str(folder))
    write_report(trainer, folder, metrics, unit="nats per pair")
    print(f"\n{metrics['trained_parameters']:,} weights trained, {metrics['trained_share']:.2%} of the model's.")
    print(describe(metrics))


if __name__ == "__main__":
    sys.exit(main())
