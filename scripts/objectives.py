"""What a model can be pretrained to do: its head, its tokenizer and its data, chosen by `--objective`."""

import math
from collections.abc import Callable, Sequence, Sized
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PreTrainedTokenizerBase

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineForPreTraining,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.scripts.pretrain_arguments import PretrainArguments
from trine.training.baselines import ngram_losses
from trine.training.masked_text import masked_pairs, masked_sequences
from trine.training.packing import PackedBlocks, tokenize_documents
from trine.training.padding_free import PaddingFreeCollator
from trine.training.whole_words import WORDS, WholeWordMaskingCollator


class CausalObjective:
    """A decoder tells the next token; the text is one stream, cut into blocks."""

    model: ClassVar[type[PreTrainedModel]] = TrineForCausalLM
    train_tokenizer: ClassVar[Callable] = staticmethod(train_byte_level_bpe)
    special_ids = ("pad_token_id", "bos_token_id", "eos_token_id")
    is_causal = True
    fields: ClassVar[dict[str, Any]] = {}  # of the config, where it has no others

    def __init__(self, arguments: PretrainArguments, seed: int):
        self.arguments, self.seed = arguments, seed
        self.check()

    def check(self) -> None:
        """Raises a ValueError if an argument is given that means nothing here."""
        if self.arguments.whole_words is not None:
            raise ValueError(
                f"whole_words='{self.arguments.whole_words}' masks words, and objective='causal' masks none."
            )

    def make_config(self, **overrides: Any) -> TrineConfig:
        """The config of the preset with those fields.

        Raises:
            ValueError: it is not of the shape that the objective needs, besides the errors of the config.
        """
        config = TrineConfig.from_preset(self.arguments.preset, **{"is_causal": self.is_causal, **overrides})
        missing = {name: value for name, value in self.fields.items() if not getattr(config, name)}
        if missing:
            config = TrineConfig.from_preset(
                self.arguments.preset, **{"is_causal": self.is_causal, **missing, **overrides}
            )
        if config.is_causal != self.is_causal:
            raise ValueError(
                f"is_causal={config.is_causal}, but objective='{self.arguments.objective}' needs {self.is_causal}."
            )
        return config

    def make_data(
        self, name: str, documents: list[str], tokenizer: PreTrainedTokenizerBase, description: str | None
    ) -> Sized:
        """The training or validation data (`name`); with a `description` the work shows a progress bar.

        Raises:
            ValueError: there is too little text.
        """
        length = self.arguments.block_length
        tokens = tokenize_documents(documents, tokenizer, description=description)
        if len(tokens) < length:
            raise ValueError(
                f"The {name} text has {len(tokens)} tokens, fewer than one block of block_length={length}: give more "
                f"text, or change block_length or validation_fraction={self.arguments.validation_fraction}."
            )
        separator: Any = tokenizer.eos_token_id if self.arguments.document_boundaries else None
        return PackedBlocks(tokens, length, separator)

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable | None:
        """What makes batches; None for the trainer's own."""
        return None

    def count_tokens(self, data: Any) -> int:
        return data.blocks.numel()

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        """What counting achieves on the validation data, in nats per token."""
        ngrams = ngram_losses(train.blocks.flatten(), validation.blocks, vocab_size)
        return {"unigram": ngrams.unigram, "bigram": ngrams.bigram}


class MaskedObjective(CausalObjective):
    """An encoder restores masked tokens, in sequences of their own lengths, which batches pack without padding."""

    model = TrineForMaskedLM
    train_tokenizer = staticmethod(train_wordpiece)
    special_ids = ("pad_token_id",)
    is_causal = False

    def check(self) -> None:
        words = self.arguments.whole_words
        if words is not None and words not in WORDS:
            raise ValueError(f"whole_words='{words}' is not among {list(WORDS)}.")
        if not 0 < self.arguments.mlm_probability < 1:
            raise ValueError(f"mlm_probability={self.arguments.mlm_probability} must lie between 0 and 1.")
        if self.arguments.document_boundaries:
            raise ValueError(
                "document_boundaries=True says nothing new: masked sequences never reach beyond a document."
            )

    def make_data(
        self, name: str, documents: list[str], tokenizer: PreTrainedTokenizerBase, description: str | None
    ) -> Sized:
        return masked_sequences(
            documents,
            tokenizer,
            self.arguments.block_length,
            words=self.arguments.whole_words,
            description=description,
        )

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable:
        probability = self.arguments.mlm_probability
        if self.arguments.whole_words:
            return PaddingFreeCollator(WholeWordMaskingCollator(tokenizer, probability))
        return PaddingFreeCollator(DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability))

    def count_tokens(self, data: Sequence[dict]) -> int:
        return sum(len(row["input_ids"]) for row in data)

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        losses = ngram_losses(self.text_tokens(train), self.text_tokens(validation)[None], vocab_size)
        return {"unigram": losses.unigram}

    def text_tokens(self, data: Sequence[dict]) -> Tensor:
        rows = [zip(row["input_ids"], row["special_tokens_mask"], strict=True) for row in data]
        return torch.tensor([token for row in rows for token, special in row if not special])


class NextSentenceObjective(MaskedObjective):
    """BERT's: besides, the encoder tells whether the second of two segments follows the first."""

    model = TrineForPreTraining
    fields: ClassVar[dict[str, Any]] = {"type_vocab_size": 2}

    def make_data(
        self, name: str, documents: list[str], tokenizer: PreTrainedTokenizerBase, description: str | None
    ) -> Sized:
        return masked_pairs(
            documents,
            tokenizer,
            self.arguments.block_length,
            seed=self.seed,
            words=self.arguments.whole_words,
            description=description,
        )

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        """Those of the masked tokens plus that of a coin, as the loss of the model is a sum too."""
        losses = super().baselines(train, validation, vocab_size)
        return {name: loss + math.log(2) for name, loss in losses.items()}


OBJECTIVES: dict[str, type[CausalObjective]] = {
    "causal": CausalObjective,
    "masked": MaskedObjective,
    "masked_next_sentence": NextSentenceObjective,
}
