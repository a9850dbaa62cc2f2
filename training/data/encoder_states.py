"""States of a frozen encoder, computed once and kept on disk: no later step costs an encoder."""

# Shapes: B batch, T tokens of the longest source, N tokens of all sources, H hidden size of the encoder.

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutput

from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ...modeling.modeling_trine import TrineModel
from .cache_folders import DEFAULT_CACHE, find_or_make


UNREAD = ("_name_or_path", "transformers_version")  # fields of a config that change no state


class EncodedSources(Dataset):
    """Rows of a data set, each with the states of its source, which `encode_sources` has computed.

    Args:
        rows: With `input_ids`, the tokens of the source.
        states: (N, H), those of all rows one after the other.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], states: Tensor):
        self.rows, self.states = rows, states
        self.ends = list(accumulate(len(row["input_ids"]) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row, and `encoder_states` (tokens, H)."""
        row, end = self.rows[index], self.ends[index]
        return {**row, "encoder_states": self.states[end - len(row["input_ids"]) : end]}


class EncodedSourcesCollator:
    """Wraps a collator for encoder-decoders, and hands the model `encoder_outputs` beside what that makes.

    `last_hidden_state` of these is (B, T, H) in the model's type, 0 where a shorter source is padded on the right.

    Args:
        collator: Makes the rest, such as transformers' `DataCollatorForSeq2Seq`.
        dtype: Type of the states that the decoder gets.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]], dtype: torch.dtype):
        self.collator, self.dtype = collator, dtype

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collates rows of `EncodedSources`.

        Raises:
            ValueError: The wrapped collator pads sources on the left, or cuts some off.
        """
        rows = [{name: value for name, value in row.items() if name != "encoder_states"} for row in features]
        batch = dict(self.collator(rows))
        states = pad_sequence([row["encoder_states"] for row in features], batch_first=True).to(self.dtype)
        mask, lengths = batch["attention_mask"], [len(row["encoder_states"]) for row in features]
        told = mask.sum(dim=1).tolist()
        if told != lengths:
            raise ValueError(
                f"attention_mask tells {told} tokens, but the states of {lengths} tokens are there: cut nothing off."
            )
        if not mask[:, 0].all():
            raise ValueError(f"attention_mask tells {told} tokens, padded on the left: pad on the right.")
        states = torch.nn.functional.pad(states, (0, 0, 0, mask.shape[1] - states.shape[1]))
        return {**batch, "encoder_outputs": BaseModelOutput(last_hidden_state=states)}


def encode_sources(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    cache_dir: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float16,
    compute_dtype: torch.dtype | None = None,
    batch_tokens: int = 4096,
    show_progress: bool = True,
) -> EncodedSources:
    """Computes what a frozen encoder makes of every source, without padding, or finds it from an earlier time.

    The states are those of evaluation: without dropout. Training with them is what training the decoder with the
    encoder in evaluation mode would be, up to their rounding.

    Args:
        model: An encoder-decoder of Trine, adapted or not, of whose encoder nothing is trained.
        rows: With `input_ids`, the tokens of a source.
        cache_dir: Where the states are kept: 2 * H bytes a token for a type of 16 bits. Default: a folder of Trine's
            in the cache of Hugging Face. Another encoder or other sources have other files.
        dtype: Type that is kept.
        compute_dtype: Half precision of matrix products, by autocast, as in training with it. Default: the model's.
        batch_tokens: Tokens that are encoded at a time, at least one source.
        show_progress: Whether a progress bar is shown.

    Raises:
        ValueError: The model has no such encoder, some of it is trained, there is no token, or the states do not fit
            into the type.
        OSError: The cache cannot be written.
    """
    encoder = frozen_encoder(model)
    ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    count, width = sum(map(len, ids)), encoder.config.hidden_size
    if not count:
        raise ValueError(f"{len(ids)} sources have no token to encode.")

    def make(folder: Path) -> None:
        states = torch.from_file(str(folder / "states"), shared=True, size=count * width, dtype=dtype).view(
            count, width
        )
        start = 0
        with tqdm(total=count, desc="Encoding", unit="token", unit_scale=True, disable=not show_progress) as progress:
            for encoded in encode_in_batches(encoder, ids, batch_tokens, compute_dtype):
                kept = states[start : start + len(encoded)].copy_(encoded)
                if not kept.isfinite().all():
                    raise ValueError(
                        f"dtype={dtype} cannot hold the states, up to {encoded.abs().max():.3g}: take another."
                    )
                start += len(encoded)
                progress.update(len(encoded))

    lengths = torch.tensor([len(source) for source in ids])
    key = {"encoder": fingerprint(encoder), "sources": digest([lengths, *ids]), "dtype": str(dtype)}
    key |= {} if compute_dtype is None else {"compute_dtype": str(compute_dtype)}
    folder = find_or_make(Path(cache_dir or DEFAULT_CACHE), key, make)
    kept = torch.from_file(str(folder / "states"), size=count * width, dtype=dtype)
    return EncodedSources(rows, kept.view(count, width))


def frozen_encoder(model: Any) -> TrineModel:
    """The encoder of an encoder-decoder; a `ValueError` if it has none of Trine's, or if some of it is trained."""
    if model.config.model_type != TrineSeq2SeqConfig.model_type:
        raise ValueError(
            f"A model of the type {model.config.model_type!r} has no encoder whose states could be kept: it must be "
            f"{TrineSeq2SeqConfig.model_type!r}."
        )
    encoder = model.get_encoder()
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if trained:
        raise ValueError(
            f"The encoder is trained: {len(trained)} of its tensors, as {trained[0]!r}, have requires_grad=True, and "
            "its states would change. Freeze all of it."
        )
    return encoder


@torch.no_grad()
def encode_in_batches(
    encoder: TrineModel, ids: Sequence[Tensor], batch_tokens: int, compute_dtype: torch.dtype | None
) -> Iterator[Tensor]:
    """The states (tokens, H) of some sources after the others, in one row, of an encoder in evaluation."""
    was_training, device = encoder.training, encoder.device
    encoder.eval()
    try:
        for batch in batches(ids, batch_tokens):
            places = torch.cat([torch.arange(len(source)) for source in batch])
            inputs = {"input_ids": torch.cat(batch)[None].to(device), "position_ids": places[None].to(device)}
            with torch.autocast(device.type, compute_dtype, enabled=compute_dtype is not None):
                states = encoder(**inputs).last_hidden_state[0]
            yield states
    finally:
        encoder.train(was_training)


def batches(ids: Sequence[Tensor], batch_tokens: int) -> Iterator[list[Tensor]]:
    """Some sources at a time, of so many tokens at most, or one."""
    batch, size = [], 0
    for source in ids:
        if batch and size + len(source) > batch_tokens:
            yield batch
            batch, size = [], 0
        batch.append(source)
        size += len(source)
    yield batch


def fingerprint(encoder: TrineModel) -> list[str]:
    """The config of an encoder, and the names and a hash of its weights and buffers."""
    fields = {name: value for name, value in encoder.config.to_dict().items() if name not in UNREAD}
    weights = sorted(encoder.state_dict().items())
    return [repr(sorted(fields.items())), repr([name for name, _ in weights]), digest([each for _, each in weights])]


def digest(tensors: Sequence[Tensor]) -> str:
    """A hash of the bytes of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
