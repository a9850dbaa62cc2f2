"""Checks of what a token may depend on: no later one, no padding, no other packed text; and that it depends at all."""

# Shapes: B batch, N tokens.

from typing import Any

import torch

from .results import Difference, require_equal
from .subjects import SIZES, Subject, output_of, random_ids


LENGTH = 13
LONG = 300  # of one more text, for what is done by chunks, or otherwise with long texts


@torch.no_grad()
def outputs(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return output_of(model(ids, use_cache=False, **inputs))


def changed(ids: torch.Tensor, place: int) -> torch.Tensor:
    """The ids (B, N) with another one at `place`."""
    other = ids.clone()
    other[:, place] = 3 + (other[:, place] - 2) % (SIZES["vocab_size"] - 3)
    return other


def check_causality(subject: Subject) -> str:
    """In a decoder, another token changes no output before it, in a long text neither."""
    largest = 0.0
    short = [(2, LENGTH, (1, 2, LENGTH // 2, LENGTH - 1), case) for case in subject.cases(encoders=False)]
    long = (1, LONG, (LONG // 2, LONG - 1), ("a long text", subject.first()))
    for batch, length, places, (what, fields) in [*short, long]:
        model, ids = subject.model(**fields), random_ids(batch, length)
        before = outputs(model, ids)
        for place in places:
            after = outputs(model, changed(ids, place))
            told = f"{what}: outputs before place {place}, where a token changes"
            largest = max(largest, require_equal(after[:, :place], before[:, :place], told, 1e-11))
    return f"equal up to {largest:.1g}" if largest else "bit by bit"


def check_reach(subject: Subject) -> None:
    """Another token changes some output after it, and in an encoder some output before it."""
    for what, fields in subject.cases():
        model, ids = subject.model(**fields), random_ids(2, LENGTH)
        before, after = outputs(model, ids), outputs(model, changed(ids, LENGTH // 2))
        moved = ((before - after).abs().amax(dim=(0, 2)) > 1e-9).tolist()
        if not any(moved[LENGTH // 2 + 1 :]):
            raise Difference(f"{what}: no output depends on an earlier token")
        if not fields["is_causal"] and not any(moved[: LENGTH // 2]):
            raise Difference(f"{what}: no output depends on a later token")


def check_padding(subject: Subject) -> None:
    """Padding on either side changes no output of a real token, whatever stands in it."""
    for what, fields in subject.cases():
        model, text = subject.model(**fields), random_ids(1, LENGTH - 4, seed=1)
        expected = outputs(model, text)
        for side in ("left", "right"):
            ids, mask = random_ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
            real = slice(4, None) if side == "left" else slice(None, -4)
            mask[1] = 0
            mask[1, real], ids[1, real] = 1, text[0]
            actual = outputs(model, ids, attention_mask=mask)
            require_equal(actual[1:, real], expected, f"{what}: a text with padding on the {side}")
            require_equal(actual[:1], outputs(model, ids[:1]), f"{what}: a text beside one with padding on the {side}")


def check_packing(subject: Subject) -> None:
    """Texts in one row, whose positions start again, give what they give apart."""
    for what, fields in subject.cases():
        model = subject.model(**fields)
        texts = [
            [random_ids(1, length, seed=length + row) for length in lengths]
            for row, lengths in enumerate(((5, 8), (9, 4)))
        ]
        expected = [torch.cat([outputs(model, text) for text in row], dim=1) for row in texts]
        places = [torch.cat([torch.arange(text.shape[1]) for text in row])[None] for row in texts]
        ids = [torch.cat(row, dim=1) for row in texts]
        one = outputs(model, ids[0], position_ids=places[0])
        require_equal(one, expected[0], f"{what}: two texts in a row")
        several = outputs(model, torch.cat(ids), position_ids=torch.cat(places))
        require_equal(several, torch.cat(expected), f"{what}: two texts in each of two rows")


def check_position_bias(subject: Subject) -> None:
    """A bias on the scores of pairs, as relative positions add it, reaches the output."""
    for what, fields in subject.cases():
        model, ids = subject.model(**{**fields, "position_type": "relative"}), random_ids(2, LENGTH)
        before = outputs(model, ids)
        for layer, kind in zip(
            (model.model if fields["is_causal"] else model).layers, model.config.attention_types, strict=True
        ):
            if kind != subject.name:  # whose part of the change is not asked for
                layer.self_attn.o_proj.weight.data.zero_()
        before = outputs(model, ids)
        bias = (model.model if fields["is_causal"] else model).positions.relative_attention_bias.weight
        bias.data += torch.randn(bias.shape, dtype=bias.dtype)
        if torch.allclose(before, outputs(model, ids), rtol=0, atol=1e-9):
            raise Difference(f"{what}: the output does not depend on position_bias")
