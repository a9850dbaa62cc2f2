"""Teach a decoder to follow instructions, by LoRA adapters or by training all weights."""

import json
import random
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from trine.generation.translation.metrics import describe_scores
from trine.scripts.arguments.chat_template import set_chat_template
from trine.scripts.arguments.instructions import FORMATS, InstructionArguments, InstructionTrainingArguments
from trine.scripts.arguments.lora import ADAPTER, LoraArguments, count_parameters, remove_adapter
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.jobs.answers import answers_of, score_answers, write_answers
from trine.scripts.jobs.cut_texts import say_cut
from trine.scripts.jobs.finetuning import load_parts
from trine.scripts.jobs.job import INTERRUPTED, bad_input_ends, begin, figures_of, save, train, write_report
from trine.tokenization.records import BadRecords, read_examples
from trine.training.data.padding_free import PaddingFreeCollator, takes_packed_rows
from trine.training.objectives.instructions import Example, encode_completion, encode_conversation
from trine.training.run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from trine.training.run.freezing import PartialTrainer, PartialTraining
from trine.training.run.trainers import keep_use_cache


# The types of a record's fields, and what makes it an example.
Reader = tuple[Mapping[str, type], Callable[[Mapping[str, Any]], Example]]


@dataclass
class Task:
    """Everything that training needs, and the figures of the data for metrics.json."""

    tokenizer: PreTrainedTokenizerBase
    model: Any  # a PreTrainedModel, or PEFT's model around it
    train_data: list[Example]
    validation_data: list[Example]
    checkpoint: str | None
    metrics: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine finetune-lora` with these arguments, by default the process's."""
    types = [InstructionArguments, PartialTrainingArguments, LoraArguments, InstructionTrainingArguments]
    arguments, partial, lora, training = parse_arguments(types, argv, command="finetune-lora", description=__doc__)
    with bad_input_ends():
        task = prepare(arguments, partial, lora, training)
    restore_use_cache = keep_use_cache(task.model.config)
    # Biases of routers and random features belong to the base, which adapters leave as it is.
    callbacks: list[Any] = [ExpertLoadCallback(), RandomFeatureCallback()] if arguments.full else []
    trainer = PartialTrainer(
        task.model,
        training,
        train_dataset=task.train_data,  # pyright: ignore[reportArgumentType] a list is a dataset
        eval_dataset=task.validation_data,  # pyright: ignore[reportArgumentType]
        data_collator=make_collator(task, training),
        processing_class=task.tokenizer,
        callbacks=callbacks,
        partial=partial,
    )
    before = trainer.evaluate()["eval_loss"]
    is_done = train(trainer, task.checkpoint, arguments.early_stopping_patience)
    restore_use_cache()
    if not is_done:
        return INTERRUPTED
    finish(task, trainer, before, arguments, lora.merge)
    return 0


def prepare(
    arguments: InstructionArguments,
    partial: PartialTraining,
    lora: LoraArguments,
    training: InstructionTrainingArguments,
) -> Task:
    """Read, tokenise and split the records, and make the model.

    Raises:
        OSError: files or a model that cannot be read, or an output folder that cannot be written.
        ValueError: arguments that are wrong or do not fit together, or records that cannot be used.
    """
    if arguments.full and lora.merge:
        raise ValueError("merge=True has nothing to merge with full=True, which writes a plain checkpoint by itself.")
    checkpoint = begin(training)
    try:
        config, tokenizer = load_parts(arguments, writes=True)
    except OSError as error:
        raise OSError(f"model='{arguments.model}' cannot be read: {error}") from error
    if arguments.prefix_lm:
        check_prefixes(config, arguments, lora)
    if arguments.chat_template is not None:
        set_chat_template(tokenizer, arguments.chat_template)
    if arguments.format == "messages" and tokenizer.chat_template is None:
        raise ValueError(
            f"format='messages' needs a chat template, which the tokenizer of model='{arguments.model}' lacks: give "
            "one with --chat_template chatml, or use format='completion'."
        )
    train_data, validation_data, metrics = read_data(arguments, tokenizer, training.seed)
    set_seed(training.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(
        arguments.model, config=config, dtype=arguments.dtype, trust_remote_code=arguments.trust_remote_code
    )
    stop_at_ends(model, tokenizer, train_data)
    if not arguments.full:
        with warnings.catch_warnings():  # PEFT asks by a name that transformers is about to drop
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            model = get_peft_model(model, lora.make_config(model, task_type="CAUSAL_LM"))
    partial.apply(model, processes=training.world_size)
    return Task(tokenizer, model, train_data, validation_data, checkpoint, {**metrics, **count_parameters(model)})


def check_prefixes(config: Any, arguments: InstructionArguments, lora: LoraArguments) -> None:
    """Lets a decoder read prompts both ways; a ValueError where it cannot, or where nothing would be told of it."""
    if config.model_type != "trine":
        raise ValueError(f"prefix_lm=True needs a decoder of Trine, but model_type={config.model_type!r}.")
    if not (config.prefix_lm or arguments.full or lora.merge):
        raise ValueError(
            "prefix_lm=True is a field of the config, which adapters alone do not hold: add --merge or --full, or "
            "give a model that has it."
        )
    config.prefix_lm = True
    config.check()


def read_data(
    arguments: InstructionArguments, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[list[Example], list[Example], dict[str, Any]]:
    """Reads examples to train on and to validate with, and their figures for metrics.json."""
    types, encode = READERS[arguments.format](arguments, tokenizer)
    truncated = 0

    def read(record: Mapping[str, Any]) -> Example:
        nonlocal truncated
        whole = encode(record)
        example = {name: values[: arguments.max_length] for name, values in whole.items()}
        if all(label < 0 for label in example["labels"][1:]):
            raise ValueError(f"its first max_length={arguments.max_length} tokens hold nothing to learn")
        truncated += len(whole["input_ids"]) > arguments.max_length
        if arguments.prefix_lm:
            example["prefix_length"] = answers_of(example)[0][0]  # pyright: ignore[reportArgumentType] a number
        return example

    bad = BadRecords(arguments.skip_bad_records)
    examples = read_examples(arguments.files, types, read, bad)
    validation_data = read_examples(arguments.validation_files, types, read, bad) if arguments.validation_files else []
    bad.check()
    read_records = len(examples) + len(validation_data)
    if not arguments.validation_files:
        random.Random(seed).shuffle(examples)
        number = max(1, round(arguments.validation_fraction * len(examples)))
        validation_data, examples = examples[:number], examples[number:]
    train_data = leave_held_out(examples, validation_data)  # what is held out is not trained on either
    if left_out := len(examples) - len(train_data):
        print(f"{left_out:,} records are left out of training: their questions are held out for validation.")
    counts = {"training_records": len(train_data), "validation_records": len(validation_data)}
    if not all(counts.values()):
        raise ValueError(f"files={arguments.files} leave too little: {counts}.")
    say_cut(truncated, read_records, "records", arguments.max_length)
    return train_data, validation_data, {**counts, "truncated_records": truncated, "bad_records": bad.count}


def message_reader(arguments: InstructionArguments, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """The field of records with chat messages, and the function that encodes them."""
    name = arguments.messages_field
    return {name: list}, lambda record: encode_conversation(tokenizer, record[name])


def completion_reader(arguments: InstructionArguments, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """The fields of records with prompts and completions, and the function that encodes them."""

    def encode(record: Mapping[str, Any]) -> Example:
        prompt = arguments.prompt_template.replace("{prompt}", record[arguments.prompt_field])
        return encode_completion(tokenizer, prompt, record[arguments.completion_field])

    return {arguments.prompt_field: str, arguments.completion_field: str}, encode


READERS: dict[str, Callable[..., Reader]] = dict(zip(FORMATS, (message_reader, completion_reader), strict=True))


def leave_held_out(examples: Sequence[Example], held_out: Sequence[Example]) -> list[Example]:
    """The examples that neither go on from a conversation that is held out nor are the beginning of one.

    Conversations may begin alike, as with a greeting, if they differ before the last answer of each.
    """
    last = {prompts_of(example)[-1] for example in held_out}
    each = {prompt for example in held_out for prompt in prompts_of(example)}
    return [
        example
        for example in examples
        if not last.intersection(prompts := prompts_of(example)) and prompts[-1] not in each
    ]


def prompts_of(example: Example) -> list[tuple[int, ...]]:
    """The tokens before each answer."""
    return [tuple(example["input_ids"][:first]) for first, _ in answers_of(example)]


def stop_at_ends(model: Any, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> None:
    """Makes generation stop at the special token that ends the answers, such as the mark of a chat template."""
    ends = Counter(example["input_ids"][answers_of(example)[0][1] - 1] for example in examples)
    end = ends.most_common(1)[0][0]
    known = model.generation_config.eos_token_id
    known = [known] if isinstance(known, int) else [*(known or [])]
    if end not in known and end in tokenizer.added_tokens_decoder:
        model.generation_config.eos_token_id = [*known, end] if known else end


def make_collator(task: Task, training: TrainingArguments) -> Callable[..., Any]:
    """The collator; its batches have no padding where the model keeps the texts of a row apart by their positions."""
    padding = DataCollatorForSeq2Seq(task.tokenizer)  # pads labels too
    return PaddingFreeCollator(padding) if takes_packed_rows(task.model, training) else padding


def finish(task: Task, trainer: Trainer, before: float, arguments: InstructionArguments, merge: bool) -> None:
    """Evaluates, saves, draws, answers, and prints the loss beside that of the model before training."""
    losses = {"before": before, "after": trainer.evaluate()["eval_loss"]}
    metrics = {"loss": losses, **task.metrics, **figures_of(trainer)}
    folder = save(trainer, Path(str(trainer.args.output_dir)) / ADAPTER if merge else None)
    if folder is None:
        return
    metrics |= answer(task, arguments, folder)
    if merge:
        remove_adapter(folder)
        task.model.merge_and_unload().save_pretrained(folder)
        task.tokenizer.save_pretrained(folder)
    write_report(trainer, folder, metrics, {"before": before})
    trained, share = metrics["trained_parameters"], metrics["trained_share"]
    print(f"\n{trained:,} weights trained, {share:.2%} of the model's {metrics['parameters']:,}.")
    print("Validation loss in nats per token: {before:.3f} before, {after:.3f} after.".format(**losses))
    if merge or not isinstance(task.model, PeftModel):
        print(f"\nTry next:\n  trine serve --model {shlex.quote(str(folder))}")
    else:
        print(f"\n'{folder}' holds adapters alone, for PEFT; --merge makes a model of them that `trine serve` takes.")


def answer(task: Task, arguments: InstructionArguments, folder: Path) -> dict[str, Any]:
    """Prints the model's first answers, by greedy search; writes all to answers.jsonl, and returns their scores."""
    model, examples = task.model.eval(), task.validation_data
    firsts = [asked_of(example)[0] for example in examples[: arguments.samples]]
    for prompt, text, target, _ in write_answers(model, task.tokenizer, firsts):
        print(f"\n{prompt}\n  model:  {text}\n  target: {target}")
    if not arguments.metrics:
        return {}
    asked = [pair for example in examples[: arguments.score_records] for pair in asked_of(example)]
    answers = write_answers(model, task.tokenizer, asked)
    lines = (json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in answers)
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    scores, intervals = score_answers(answers, arguments.metrics)
    print(f"\n{len(asked):,} held-out answers, greedy:\n{describe_scores({'model': scores})}")
    return {"scores": {"model": scores}, "intervals": intervals, "scored_answers": len(asked)}


def asked_of(example: Example) -> list[tuple[list[int], list[int]]]:
    """The tokens before each answer, and those of the answer."""
    ids = example["input_ids"]
    return [(ids[:first], ids[first:last]) for first, last in answers_of(example)]


if __name__ == "__main__":
    sys.exit(main())
