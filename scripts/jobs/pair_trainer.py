"""Training and saving of models with one tokenizer or two."""

from pathlib import Path
from typing import Any

from transformers.trainer_pt_utils import LengthGroupedSampler

from trine.scripts.arguments.lora import remove_adapter
from trine.scripts.jobs.pair_models import Tokenizers
from trine.tokenization.loading import TARGET_TOKENIZER
from trine.training.run.muon import choose_optimizer
from trine.training.run.trainers import ScheduledSamplingTrainer


class PairTrainer(ScheduledSamplingTrainer):
    """A trainer for one tokenizer or two: both are saved with each checkpoint and in the end.

    Args:
        tokenizers: Of what is read and of what is written.
    """

    def __init__(self, *args: Any, tokenizers: Tokenizers, **kwargs: Any):
        self.tokenizers = tokenizers
        # transformers gives the model the special tokens of a trainer's tokenizer, and here those of the target count.
        super().__init__(*args, processing_class=None if tokenizers.are_two else tokenizers.source, **kwargs)
        self.optimizer_cls_and_kwargs = choose_optimizer(self.args)  # transformers' Seq2SeqTrainer takes none

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As of transformers' trainer, but `group_by_length` counts the tokens of the target, then of the source.

        The decoder and its head pay for padding of targets.
        """
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        sizes = [(len(row["labels"]), len(row["input_ids"])) for row in rows]
        longest = 1 + max(source for _, source in sizes)
        lengths = [target * longest + source for target, source in sizes]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=lengths)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as transformers' trainer does, and both tokenizers where there are two."""
        super().save_model(output_dir, _internal_call)
        if self.tokenizers.are_two and self.args.should_save:
            save_tokenizers(self.tokenizers, Path(str(output_dir or self.args.output_dir)))


def save_tokenizers(tokenizers: Tokenizers, folder: Path) -> None:
    """Saves the tokenizer of what is read beside the model, and a second one in a folder of its own there."""
    tokenizers.source.save_pretrained(folder)
    if tokenizers.are_two:
        tokenizers.target.save_pretrained(folder / TARGET_TOKENIZER)


def save_merged(model: Any, tokenizers: Tokenizers, folder: Path) -> None:
    """Writes a plain checkpoint of a model with adapters, which are merged into it, and its tokenizers."""
    remove_adapter(folder)
    model.merge_and_unload().save_pretrained(folder)
    save_tokenizers(tokenizers, folder)
