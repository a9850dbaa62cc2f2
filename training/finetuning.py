"""Fine-tuning in Python: records are split, a model gets a head for their labels, and batches go without padding."""

import random
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization.loading import fit_inputs, load_tokenizer
from .data.padding_free import PaddingFreeCollator, takes_packed_rows
from .new_heads import describe_new_weights, without_load_report
from .run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from .run.freezing import PartialTrainer
from .run.trainers import keep_use_cache


Example = TypeVar("Example")


def hold_out(
    examples: Sequence[Example],
    strata: Sequence[Hashable] | None = None,
    texts: Sequence[Hashable] | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> tuple[list[Example], list[Example]]:
    """Examples for training and for validation: a share of each stratum is held out, and one of each never.

    A training example whose text is held out with another example is left out.

    Args:
        strata: What each example is of, such as its class. Default: all are of one.
        texts: The text of each example. Default: all differ.
        validation_fraction: Share of the examples that is held out.
        seed: Decides which; equal seeds hold out the same.

    Raises:
        ValueError: One of both would be empty.
    """
    strata = [None] * len(examples) if strata is None else strata
    texts = range(len(examples)) if texts is None else texts
    members: dict[Hashable, list[int]] = {}
    for index in random.Random(seed).sample(range(len(examples)), len(examples)):
        members.setdefault(strata[index], []).append(index)
    held_out: list[int] = []
    seen = 0
    for _, group in sorted(members.items(), key=lambda item: str(item[0])):
        if len(group) > 1:
            seen += len(group)  # the sum is rounded, so that small strata are not all rounded down
            held_out += group[: min(max(0, round(validation_fraction * seen) - len(held_out)), len(group) - 1)]
    hidden = {texts[index] for index in held_out}
    training = [example for example, text in zip(examples, texts, strict=True) if text not in hidden]
    if not held_out or not training:
        raise ValueError(
            f"validation_fraction={validation_fraction:g} of {len(examples)} records leaves {len(training)} to "
            f"train on and {len(held_out)} to validate with."
        )
    return training, [examples[index] for index in held_out]


def load_config_and_tokenizer(
    model: str, *, max_length: int | None = None, writes: bool = False, trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The config and the tokenizer of a model, both with a token for padding; which one takes its place is printed.

    Args:
        model: Folder or Hub id of a pretrained model.
        max_length: Number of tokens that the model and the tokenizer have to allow.
        writes: Whether the model writes texts: then the tokenizer also tells where they end.
        trust_remote_code: Whether the code that a checkpoint brings may run.

    Raises:
        OSError: There is no such model, or it cannot be read.
        ValueError: The tokenizer has no token that could pad, or `max_length` is above what is allowed.
    """
    options = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(model, **options)
    tokenizer = load_tokenizer(model, writes=writes, **options)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"The tokenizer of model='{model}' has no token for padding, nor for the end.")
        tokenizer.pad_token = tokenizer.eos_token
        print(f"The tokenizer has no token for padding: {tokenizer.eos_token!r} takes its place.")
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    fit_inputs(tokenizer, config)
    for name, limit in (
        ("max_position_embeddings", getattr(config, "max_position_embeddings", None)),
        ("model_max_length of the tokenizer", tokenizer.model_max_length),
    ):
        if max_length is not None and limit is not None and max_length > limit:
            raise ValueError(f"max_length={max_length} is above {name}={limit}.")
    return config, tokenizer


def load_model(
    auto_class: Any,
    model: str,
    names: Sequence[str],
    *,
    config: PreTrainedConfig | None = None,
    problem_type: Any = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model with a head for these labels, in float32; weights that the checkpoint lacks are random, and printed.

    Args:
        auto_class: `AutoModelForSequenceClassification`, `AutoModelForTokenClassification` or another with labels.
        model: Folder or Hub id of a pretrained model. A head for other labels is made anew.
        names: The labels, in the order of their indices.
        config: That of the model, changed here. Default: the checkpoint's.
        problem_type: One of `PROBLEMS` in `training.objectives.labels`. Default: the targets tell.
        trust_remote_code: Whether the code that a checkpoint brings may run.

    Raises:
        OSError: There is no such model, or it cannot be read.
    """
    if config is None:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = problem_type
    with without_load_report():
        loaded, info = auto_class.from_pretrained(
            model,
            config=config,
            dtype="float32",
            ignore_mismatched_sizes=True,  # the head of another set of labels is made anew
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    if news := describe_new_weights(loaded, info):
        print(news)
    return loaded


class FinetuneTrainer(PartialTrainer):
    """Trains on batches without padding where the model allows it; evaluates with padding, one example per row.

    Experts are counted and balanced (`ExpertLoadCallback`), random features are drawn anew (`RandomFeatureCallback`),
    and the config has its `use_cache` back after training.

    Args:
        padding_free: Whether batches may go without padding; `True` is for models of type `trine`. Classifiers that
            give sets of labels are trained with padding in any case.
        callbacks: Others than the two above.
        args, kwargs: As for `PartialTrainer`; `model` is a model, not a function that makes one.
    """

    def __init__(
        self, model: PreTrainedModel, *args: Any, padding_free: bool = True, callbacks: Any = None, **kwargs: Any
    ):
        self._restore_use_cache = keep_use_cache(model.config)
        callbacks = [ExpertLoadCallback(), RandomFeatureCallback(), *(callbacks or [])]
        super().__init__(model, *args, callbacks=callbacks, **kwargs)
        # Packing takes the labels of texts for those of tokens where there are as many as tokens in the longest text.
        is_ambiguous = getattr(model.config, "problem_type", None) == "multi_label_classification"
        self.padding_free = padding_free and not is_ambiguous and takes_packed_rows(model, self.args)

    def get_train_dataloader(self):
        """The batches to train on, without padding if `padding_free`."""
        padding = self.data_collator
        if self.padding_free:
            self.data_collator = PaddingFreeCollator(padding)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = padding

    def train(self, *args: Any, **kwargs: Any):
        """Trains as `Trainer.train` does, and gives the config back its `use_cache`."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._restore_use_cache()
