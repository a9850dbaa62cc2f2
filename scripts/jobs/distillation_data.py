"""Texts for distillation: read, tokenised, and collated without padding."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling

from trine import TrineForCausalLM, TrineForConditionalGeneration
from trine.modeling.heads.masked_lm import MaskedTokenHead
from trine.modeling.losses import IGNORE_INDEX
from trine.scripts.arguments.distillation import DistillArguments
from trine.tokenization.record_files import ending_of
from trine.tokenization.records import BadRecords, iterate_records
from trine.tokenization.text_files import PLAIN, find_text_sources, iterate_text_files
from trine.training.data.padding_free import PaddingFreeCollator


Features = dict[str, Any]


def read_texts(arguments: DistillArguments, seed: int) -> tuple[list[Any], list[Any], dict[str, int]]:
    """The texts to train on and to validate with, each once, and numbers; pairs where there is a `target_field`.

    Raises:
        OSError: A file cannot be read.
        ValueError: A record lacks a field, or there is too little text.
    """
    bad = BadRecords(arguments.skip_bad_records)
    texts = list(dict.fromkeys(iterate_texts(arguments.files, arguments, bad)))
    held_out = list(dict.fromkeys(iterate_texts(arguments.validation_files, arguments, bad)))
    bad.check()
    if not arguments.validation_files:
        random.Random(seed).shuffle(texts)
        number = max(1, round(arguments.validation_fraction * len(texts)))
        held_out, texts = texts[:number], texts[number:]
    hidden = set(held_out)
    texts = [text for text in texts if text not in hidden]
    counts = {"training_texts": len(texts), "validation_texts": len(held_out)}
    if not all(counts.values()):
        raise ValueError(f"files={arguments.files} leave too little: {counts}.")
    return texts, held_out, {**counts, "bad_records": bad.count}


def iterate_texts(files: Sequence[str], arguments: DistillArguments, bad: BadRecords) -> Iterator[Any]:
    """The texts of files, with their prefix: plain texts whole, and each text field of each record by itself."""
    if not files:
        return
    if arguments.source_field is not None:
        names = [name for name in (arguments.source_field, arguments.target_field) if name is not None]
        for record in iterate_records(files, dict.fromkeys(names, str), bad):
            if all(record[name].strip() for name in names):
                texts = [arguments.prefix + record[names[0]], *(record[name] for name in names[1:])]
                yield tuple(texts) if len(texts) > 1 else texts[0]
        return
    for source in find_text_sources(files):
        if isinstance(source, Path) and ending_of(source) in PLAIN:
            yield from (arguments.prefix + text for text in iterate_text_files([source]))
            continue
        for record in iterate_records([source], dict.fromkeys(arguments.text_field, str), bad):
            yield from (arguments.prefix + text for text in record.values() if text.strip())


def encode_whole(tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[list[Features], int]:
    """Token ids of each text, up to a length, and the number of texts that are cut off."""
    rows = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    full = [place for place, row in enumerate(rows) if len(row) == max_length]
    whole = tokenizer([texts[place] for place in full], verbose=False)["input_ids"] if full else []
    return [{"input_ids": row} for row in rows], sum(len(row) > max_length for row in whole)


def encode_cut(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Features]:
    """Token ids of texts with the token that ends one, in pieces of that length at most, none of a single token."""
    features = []
    for row in tokenizer(list(texts), verbose=False)["input_ids"]:
        row = row if row[-1:] == [tokenizer.eos_token_id] else [*row, tokenizer.eos_token_id]
        pieces = [row[start : start + max_length] for start in range(0, len(row), max_length)]
        features += [{"input_ids": piece, "labels": [IGNORE_INDEX, *piece[1:]]} for piece in pieces if len(piece) > 1]
    return features


def encode_pairs(tokenizer: Any, target: Any, pairs: Sequence[tuple[str, str]], max_length: int) -> list[Features]:
    """Token ids of what is read, and labels of what is written."""
    sources, targets = zip(*pairs, strict=True)
    rows = tokenizer(list(sources), truncation=True, max_length=max_length)["input_ids"]
    labels = target(text_target=list(targets), truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]


def pad(rows: Sequence[Any], value: int) -> torch.Tensor:
    """Rows of ids as one tensor, padded on the right."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=value)


class DistillationCollator:
    """Makes batches of features: padded ones, or packed without padding.

    Args:
        tokenizer: The student's.
        mlm_probability: Share of the tokens that is masked, which then are the labels; None masks none.
        packs: Whether batches go without padding.
    """

    def __init__(self, tokenizer: Any, mlm_probability: float | None = None, packs: bool = True):
        self.padding = tokenizer.pad_token_id
        self.masking: Any = None
        if mlm_probability is not None:
            self.masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability)
        self.tokenizer = tokenizer
        self.collate: Callable = PaddingFreeCollator(self.pad) if packs else self.pad

    def __call__(self, features: Sequence[Features]) -> dict[str, torch.Tensor]:
        batch = dict(self.collate(features))
        if "teacher_embeddings" in features[0]:  # not before packing, to which as many numbers as tokens are tokens
            batch["teacher_embeddings"] = torch.stack([feature["teacher_embeddings"] for feature in features])
        return batch

    def pad(self, features: Sequence[Features]) -> dict[str, torch.Tensor]:
        """The padded batch, with its mask."""
        ids = pad([feature["input_ids"] for feature in features], self.padding)
        batch = {"input_ids": ids, "attention_mask": pad([[1] * len(each["input_ids"]) for each in features], 0)}
        for name, value in (("labels", IGNORE_INDEX), ("teacher_input_ids", 0)):
            if name in features[0]:
                batch[name] = pad([feature[name] for feature in features], value)
        if self.masking is not None:
            special = [
                self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in ids.tolist()
            ]
            batch["input_ids"], batch["labels"] = self.masking.torch_mask_tokens(ids, torch.tensor(special))
        return batch


def make_features(
    model: Any, tokenizers: Mapping[str, Any], texts: Sequence[Any], arguments: DistillArguments
) -> tuple[list[Features], int]:
    """The features of texts for a student, and the number of texts that are cut off or left out.

    Args:
        model: The student.
        tokenizers: The `student`'s; `target`, of what an encoder-decoder writes; and `teacher`, where it is another.
        texts: Texts, or pairs.
        arguments: Of the command.

    Raises:
        ValueError: An encoder-decoder has no pairs, or the tokenizers cut no text into as many tokens.
    """
    student, length = tokenizers["student"], arguments.max_length
    if isinstance(model, TrineForConditionalGeneration):
        if arguments.source_field is None:
            raise ValueError(
                f"The teacher is a {type(model).__name__}, which reads one text and writes another: give source_field "
                "and target_field, their names in the records."
            )
        return encode_pairs(student, tokenizers["target"], texts, length), 0
    if arguments.source_field is not None:
        raise ValueError(
            f"source_field={arguments.source_field!r} is for an encoder-decoder; the teacher is a "
            f"{type(model).__name__}: give text_field."
        )
    if isinstance(model, TrineForCausalLM):
        return encode_cut(student, texts, length), 0
    features, cut = encode_whole(student, texts, length)
    if "teacher" in tokenizers:
        others = encode_whole(tokenizers["teacher"], texts, length)[0]
        pairs = zip(features, others, strict=True)
        both = [{**mine, "teacher_input_ids": its["input_ids"]} for mine, its in pairs if fits(mine, its)]
        if not both:
            raise ValueError("The tokenizers of student and teacher cut no text into the same number of tokens.")
        return both, len(features) - len(both)
    return features, cut


def fits(mine: Features, its: Features) -> bool:
    """Whether both have as many tokens."""
    return len(mine["input_ids"]) == len(its["input_ids"])


def masks_tokens(model: Any, arguments: DistillArguments) -> bool:
    """Whether the objective needs masked tokens."""
    return isinstance(model, MaskedTokenHead) and "logits" in arguments.objective
