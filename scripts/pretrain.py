"""Pretrain a decoder or an encoder on text files: tokenizer, model, plots and metrics in one folder."""

import math
import sys
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from trine.scripts.arguments.parallel import ParallelArguments
from trine.scripts.arguments.parsing import parse_arguments, unknown_name
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.pretraining import PretrainArguments, PretrainTrainingArguments, parse_overrides
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.scripts.reports.plots import draw_expert_load, draw_progress
from trine.tokenization.loading import fit_inputs, load_tokenizer
from trine.tokenization.text_ends import end_ids
from trine.training.data.corpus import PARTS, Corpus
from trine.training.objectives.pretraining import OBJECTIVES, CausalObjective
from trine.training.run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from trine.training.run.freezing import PartialTraining
from trine.training.run.monitoring import EnergyCallback, ThroughputCallback
from trine.training.run.muon import check_whole, choose_optimizer
from trine.training.run.parallelism import Parallelism, SharedBatchCallback, check_launch, check_model, make_model
from trine.training.run.trainers import TrineTrainer, keep_use_cache


@dataclass
class Task:
    """Everything that training needs."""

    objective: CausalObjective
    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    train_data: Sized
    validation_data: Sized
    collator: Callable | None
    checkpoint: str | None
    energy: list[EnergyCallback]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine pretrain` with these arguments, by default the process's."""
    types = [PretrainArguments, PartialTrainingArguments, ParallelArguments, PretrainTrainingArguments]
    arguments, partial, parallel, training = parse_arguments(types, argv, command="pretrain", description=__doc__)
    return INTERRUPTED if pretrain(arguments, training, parallel, partial) is None else 0


def pretrain(
    arguments: PretrainArguments,
    training: PretrainTrainingArguments,
    parallel: Parallelism | None = None,
    partial: PartialTraining | None = None,
) -> dict[str, Any] | None:
    """Do the whole job and return the metrics, or None if Ctrl-C ended it. Exits with a message on bad input."""
    parallel, partial = parallel or Parallelism(), partial or PartialTraining()
    with bad_input_ends(ImportError):
        task = prepare(arguments, training, parallel)
        partial.apply(task.model, processes=training.world_size)
    # A step of two stacks is no multiple of one number of tokens.
    throughput = ThroughputCallback(None if hasattr(task.model.config, "encoder") else arguments.block_length)
    layers = [ExpertLoadCallback(), RandomFeatureCallback()]
    callbacks = [SharedBatchCallback(parallel.tp_size), *layers, throughput, *task.energy]
    restore_use_cache = keep_use_cache(task.model.config)
    trainer = TrineTrainer(
        task.model,
        training,
        train_dataset=task.train_data,  # pyright: ignore[reportArgumentType] a list is a dataset
        eval_dataset=task.validation_data,  # pyright: ignore[reportArgumentType]
        data_collator=task.collator,
        processing_class=task.tokenizer,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=choose_optimizer(training),
        partial=partial,
    )
    if not train(trainer, task.checkpoint):
        return None
    metrics, losses = evaluate(arguments, task, trainer)
    restore_use_cache()
    if folder := save(trainer):
        write_report(trainer, folder, metrics, losses)
        draw_progress(trainer.state.log_history, folder / "training.png")
        if any("expert_load" in entry for entry in trainer.state.log_history):
            draw_expert_load(trainer.state.log_history, folder / "expert-load.png")
        print(describe(metrics))
    return metrics


def prepare(arguments: PretrainArguments, training: PretrainTrainingArguments, parallel: Parallelism) -> Task:
    """Read, split and tokenise the text, and make the model.

    Raises:
        OSError: files that cannot be read, or an output folder that cannot be written.
        ValueError: arguments that are wrong or do not fit together, or too little text.
        StrictDataclassError: a field of the config has the wrong type.
    """
    checkpoint = begin(training)
    check_launch(parallel, training)
    check_whole(training, parallel)
    energy = [EnergyCallback(arguments.energy_country)] if arguments.energy_country else []
    overrides = parse_overrides(arguments.config_overrides)
    if arguments.objective not in OBJECTIVES:
        raise ValueError(unknown_name("objective", arguments.objective, OBJECTIVES))
    objective = OBJECTIVES[arguments.objective](arguments, training.seed)
    check_model(parallel, objective.make_config(**overrides))  # what is wrong should not wait for the tokenizer
    show_progress = not training.disable_tqdm
    with training.main_process_first(desc="reading the text"):  # the others find its tokens
        corpus = Corpus(
            arguments.files,
            text_field=arguments.text_field,
            validation_fraction=arguments.validation_fraction,
            seed=training.seed,
            skip_bad_records=arguments.skip_bad_records,
            cache=objective.cache,
        )
        if source := checkpoint or arguments.tokenizer or arguments.model:
            tokenizer = load_tokenizer(source, writes=objective.ends_documents)
        else:
            tokenizer = objective.make_tokenizer(corpus, show_progress)
        if arguments.model is None:
            overrides = {"vocab_size": len(tokenizer), **end_ids(tokenizer), **overrides}
        config = objective.make_config(**overrides)
        fit_inputs(tokenizer, config)
        check_sizes(config, tokenizer, arguments.block_length)
        stores = objective.tokenize(corpus, tokenizer, show_progress)
        train_data, validation_data = (objective.make_data(part, stores[part], tokenizer) for part in PARTS)
    set_seed(training.seed)
    return Task(
        objective=objective,
        corpus=corpus,
        tokenizer=tokenizer,
        model=make_model(objective.model, config, parallel, training, source=arguments.model),
        train_data=train_data,
        validation_data=validation_data,
        collator=objective.make_collator(tokenizer),
        checkpoint=checkpoint,
        energy=energy,
    )


def evaluate(
    arguments: PretrainArguments, task: Task, trainer: TrineTrainer
) -> tuple[dict[str, Any], dict[str, float]]:
    """The metrics, which metrics.json holds too, and the losses of the baselines among them."""
    objective, train_data, validation_data = task.objective, task.train_data, task.validation_data
    losses = {}
    if arguments.baselines:
        losses = objective.baselines(train_data, validation_data, len(task.tokenizer))
    set_seed(trainer.args.seed)  # decides which tokens are masked
    metrics = {
        "loss": {**losses, "model": trainer.evaluate()["eval_loss"]},
        "parameters": task.model.num_parameters(),
        "vocabulary": len(task.tokenizer),
        "bad_records": task.corpus.bad_records,
        "training_tokens": objective.count_tokens(train_data),
        "validation_tokens": objective.count_tokens(validation_data),
        **figures_of(trainer),
        **{name: value for callback in task.energy for name, value in callback.figures().items()},
    }
    return metrics, losses


def describe(metrics: dict[str, Any]) -> str:
    """The validation loss of the model beside those of the baselines, as a table."""
    lines = [f"\nValidation text, {metrics['validation_tokens']:,} tokens:", "            nats/token  perplexity"]
    lines += [f"{name:>10}  {loss:10.3f}  {math.exp(loss):10.1f}" for name, loss in metrics["loss"].items()]
    return "\n".join(lines)


def check_sizes(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, block_length: int) -> None:
    """Raises a ValueError where the tokenizer has more tokens than the model, or blocks are longer than it takes."""
    stack: Any = getattr(config, "encoder", config)
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"vocab_size={config.vocab_size} is below the {len(tokenizer)} tokens of the tokenizer.")
    if stack.max_position_embeddings < block_length:
        raise ValueError(
            f"block_length={block_length} is above max_position_embeddings={stack.max_position_embeddings}; change "
            "one of them (the latter in config_overrides)."
        )


if __name__ == "__main__":
    sys.exit(main())
