"""T5's objective, span corruption: sentinels replace spans of a text, and the target holds the spans."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ...modeling.checks.ids import IGNORE_INDEX


NUM_SENTINELS = 100
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(NUM_SENTINELS))


class SpanCorruptionCollator:
    """Makes batches for an encoder-decoder from texts of tokens.

    `noise_density` of the tokens are in spans of `mean_span_length` tokens on average, at random places. In the input,
    one sentinel token stands for each span; the labels are each sentinel with the tokens of its span. Both end with
    the EOS token. Which tokens are drawn changes each time (PyTorch's random state).

    Source: Raffel et al. 2019, T5, arXiv 1910.10683, section 3.1.4.

    Args:
        tokenizer: Has `SENTINELS`, an EOS and a padding token.
        noise_density: Share of the tokens that are replaced.
        mean_span_length: Tokens of a span, on average.

    Raises:
        ValueError: A value out of its range, or a token that the tokenizer lacks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise_density: float = 0.15, mean_span_length: float = 3.0):
        check_spans(noise_density, mean_span_length)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SENTINELS if token not in vocabulary]
        if missing or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError(
                f"Span corruption needs a tokenizer with an EOS token ({tokenizer.eos_token}), a padding token "
                f"({tokenizer.pad_token}) and {NUM_SENTINELS} sentinels, of which it lacks {missing[:3]}."
            )
        self.sentinels = torch.tensor([vocabulary[token] for token in SENTINELS])
        self.eos, self.pad = torch.tensor([tokenizer.eos_token_id]), int(tokenizer.pad_token_id)  # pyright: ignore
        self.noise_density, self.mean_span_length = noise_density, mean_span_length

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (batch, longest input) and `labels` (batch, longest target) of the features'
        `input_ids`, which hold no special tokens."""
        pairs = [self.corrupt(torch.as_tensor(feature["input_ids"])) for feature in features]
        inputs, labels = zip(*pairs, strict=True)
        mask = pad_sequence([torch.ones_like(row) for row in inputs], batch_first=True)
        return {
            "input_ids": pad_sequence(list(inputs), batch_first=True, padding_value=self.pad),
            "attention_mask": mask,
            "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORE_INDEX),
        }

    def corrupt(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Input and target of one text (N,)."""
        noise, spans = noise_sizes(len(tokens), self.noise_density, self.mean_span_length)
        if spans > NUM_SENTINELS:
            raise ValueError(
                f"A text of {len(tokens)} tokens gets {spans} spans, and there are {NUM_SENTINELS} sentinels."
            )
        kept = random_lengths(len(tokens) - noise, spans)
        hidden = random_lengths(noise, spans)
        lengths = torch.stack([kept, hidden], dim=1).flatten().tolist()  # kept, hidden, kept, hidden, ...
        parts = tokens.long().split(lengths)
        inputs, labels = [], []
        for number in range(spans):
            sentinel = self.sentinels[number, None]
            inputs += [parts[2 * number], sentinel]
            labels += [sentinel, parts[2 * number + 1]]
        return torch.cat([*inputs, self.eos]), torch.cat([*labels, self.eos])


def check_spans(noise_density: float, mean_span_length: float) -> None:
    """Raises a ValueError for a density outside of 0 to 1, or a mean length below 1."""
    if not 0 < noise_density < 1:
        raise ValueError(f"noise_density={noise_density} must lie between 0 and 1.")
    if mean_span_length < 1:
        raise ValueError(f"mean_span_length={mean_span_length} must be at least 1.")


def noise_sizes(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """The number of hidden tokens among `length`, and of spans; each span follows a token that is kept."""
    if length < 2:
        raise ValueError(f"A text of {length} tokens has no span to hide; at least 2 are needed.")
    noise = min(max(round(length * noise_density), 1), length - 1)
    return noise, min(max(round(noise / mean_span_length), 1), noise, length - noise)


def text_length(input_length: int, noise_density: float, mean_span_length: float) -> int:
    """Tokens of the longest text whose corrupted input has at most `input_length` tokens, EOS included."""
    check_spans(noise_density, mean_span_length)

    def size(length: int) -> int:
        noise, spans = noise_sizes(length, noise_density, mean_span_length)
        return length - noise + spans + 1

    if size(2) > input_length:
        raise ValueError(
            f"input_length={input_length} is too short for a corrupted text; at least {size(2)} are needed."
        )
    length = 2
    while size(length + 1) <= input_length:
        length += 1
    return length


def random_lengths(total: int, parts: int) -> Tensor:
    """Lengths (`parts`,) of at least 1 that sum to `total`, each such list being equally likely."""
    borders = torch.randperm(total - 1)[: parts - 1].sort().values + 1
    borders = torch.cat([torch.tensor([0]), borders, torch.tensor([total])])
    return borders.diff()
