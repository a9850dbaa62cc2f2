"""Pictures with captions for training: of the captions that a picture has, one is drawn each time it is seen."""

# Shapes: B pictures of a batch, N tokens of the longest caption.

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...modeling.losses import IGNORE_INDEX
from .pictures import Augmentation, PictureCollator


class CaptionCollator:
    """Makes what a dual encoder is trained on: `pixel_values`, `input_ids` (B, N), `attention_mask`, `return_loss`.

    Examples are those of `Pictures`, whose targets are lists of captions.

    Args:
        tokenizer: Pads, and cuts captions after `max_length` tokens.
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel, likewise.
        augment: Changes the pictures of a batch, or None.
        seed: Of the captions that are drawn. Default: always the first.
        max_length: The most tokens of a caption.
        padding: As of a tokenizer: True for the longest caption, or `"max_length"`.
        states: What a stack made of each caption that may be drawn, (hidden,): batches then have `text_states` in
            place of ids.
    """

    def __init__(
        self,
        tokenizer: Any,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation | None = None,
        seed: int | None = None,
        max_length: int = 64,
        padding: bool | str = True,
        states: Mapping[str, torch.Tensor] | None = None,
    ):
        self.tokenizer, self.max_length, self.padding = tokenizer, max_length, padding
        self.states = states
        self.pictures = PictureCollator(mean, std, augment)
        self.random = None if seed is None else np.random.default_rng(seed)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.pictures([{**example, "labels": 0} for example in examples])
        del batch["labels"]
        texts = [self.choose(example["labels"]) for example in examples]
        if self.states is not None:
            return {**batch, "text_states": torch.stack([self.states[text] for text in texts]), "return_loss": True}
        return {**batch, **self.encode(texts), "return_loss": True}

    def choose(self, captions: Sequence[str]) -> str:
        """One of the captions of a picture."""
        return captions[0 if self.random is None else int(self.random.integers(len(captions)))]

    def encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The ids and the mask of texts, without segments."""
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length, "padding": self.padding}
        read = self.tokenizer([*texts], return_tensors="pt", return_token_type_ids=False, **options)
        return {name: read[name] for name in ("input_ids", "attention_mask") if name in read}


class WrittenCaptionCollator(CaptionCollator):
    """Makes what a captioner is trained on: the tokens of a picture, a caption after them, and the token of the end.

    Batches have `pixel_values`, `input_ids` (B, N), `attention_mask`, and `labels`, which are those of the captions
    and of the ends alone. Other arguments are those of `CaptionCollator`; `max_length` counts a caption and its end.

    Args:
        prompt: The ids that a processor makes of a picture without words, (tokens,).
    """

    def __init__(self, tokenizer: Any, *args: Any, prompt: Sequence[int], **kwargs: Any):
        super().__init__(tokenizer, *args, **kwargs)
        self.prompt = [*prompt]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.pictures([{**example, "labels": 0} for example in examples])
        return {**batch, **self.encode([self.choose(example["labels"]) for example in examples])}

    def encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The ids, the mask and the labels of pictures with these captions, padded on the right."""
        read = self.tokenizer([*texts], add_special_tokens=False, truncation=True, max_length=self.max_length - 1)
        rows = [torch.tensor([*ids, self.tokenizer.eos_token_id]) for ids in read["input_ids"]]
        written = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        prompts = torch.tensor(self.prompt).expand(len(rows), -1)
        is_padding = torch.cat([torch.zeros_like(prompts, dtype=torch.bool), written == -1], dim=1)
        ids = torch.cat([prompts, written], dim=1).masked_fill(is_padding, self.tokenizer.pad_token_id)
        labels = torch.cat([torch.full_like(prompts, IGNORE_INDEX), written], dim=1)
        labels = labels.masked_fill(is_padding, IGNORE_INDEX)
        return {"input_ids": ids, "attention_mask": (~is_padding).long(), "labels": labels}
