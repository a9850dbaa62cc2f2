"""Checks of generation: every way of decoding with a cache gives what reading the whole text gives."""

# Shapes: B batch, N tokens.

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, StaticCache

from .results import DoesNotApply, require_equal, require_same_tokens
from .subjects import Subject, random_ids
from .texts import LONG, outputs


PROMPT, LENGTH, NEW_TOKENS = 6, 12, 5
TOLERANCE = 1e-8


@torch.no_grad()
def read_in_parts(
    model: Any, ids: torch.Tensor, cache: Any, sizes: Sequence[int], mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The logits of (B, N) ids that are read `sizes` tokens at a time, after those that the cache holds."""
    found, stop = [], cache.get_seq_length()
    for part in ids.split(list(sizes), dim=1):
        stop += part.shape[1]
        given = {} if mask is None else {"attention_mask": mask[:, :stop]}
        found.append(model(part, past_key_values=cache, use_cache=True, **given).logits)
    return torch.cat(found, dim=1)


def decoders(subject: Subject) -> Iterator[tuple[str, Any]]:
    for what, fields in subject.cases(encoders=False):
        yield what, subject.model(**fields)


def padded_ids() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (2, N) and their mask, the second text with padding on the left."""
    ids, mask = random_ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    ids[1, :3], mask[1, :3] = 0, 0
    return ids, mask


def generate(model: Any, ids: torch.Tensor, **settings: Any) -> torch.Tensor:
    """New tokens; there is no end token, so that every run has full length."""
    common = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, **{**common, **settings})


def check_cache(subject: Subject) -> None:
    """Token by token and in chunks, with padding on the left too, logits are those of one pass; so are the tokens.

    Keys of grouped heads are copied for each query head, which hides what writes into them: one model has no groups.
    """
    ids, mask = padded_ids()
    heads = subject.config(**subject.first()).num_attention_heads
    alone = subject.model(**{**subject.first(), "num_key_value_heads": heads})
    long = random_ids(1, LONG)
    actual = read_in_parts(alone, long, DynamicCache(config=alone.config), [LONG // 3, 1, LONG // 3, 1, LONG // 3 - 2])
    require_equal(actual, outputs(alone, long), "a long text: logits in chunks", TOLERANCE)
    for what, model in (*decoders(subject), ("decoder without groups of heads", alone)):
        for given, told in ((None, ""), (mask, ", with padding")):
            expected = outputs(model, ids, **({} if given is None else {"attention_mask": given}))
            for way, sizes in {
                "token by token": [PROMPT, *[1] * (LENGTH - PROMPT)],
                "in chunks": [2, 4, 1, 3, 2],
            }.items():
                actual = read_in_parts(model, ids, DynamicCache(config=model.config), sizes, given)
                real = slice(None) if given is None else mask.bool()
                require_equal(actual[real], expected[real], f"{what}: logits {way}{told}", TOLERANCE)
        plain = generate(model, ids, attention_mask=mask, use_cache=False)
        require_same_tokens(generate(model, ids, attention_mask=mask), plain, f"{what}: generation with a cache")


def check_beams(subject: Subject) -> None:
    """Rows of the cache can be put in another order, repeated and left out, as searches with beams do."""
    ids = random_ids(3, LENGTH)
    for what, model in decoders(subject):
        changes = {
            "in another order": (lambda cache, rows: cache.reorder_cache(rows), [2, 0, 0]),
            "repeated": (lambda cache, rows: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
            "chosen": (lambda cache, rows: cache.batch_select_indices(rows), [2, 1]),
        }
        for told, (change, order) in changes.items():
            rows, cache = torch.tensor(order), DynamicCache(config=model.config)
            read_in_parts(model, ids[:, :PROMPT], cache, [PROMPT])
            change(cache, rows)
            later = random_ids(len(order), LENGTH - PROMPT, seed=1)
            expected = outputs(model, torch.cat([ids[rows, :PROMPT], later], dim=1))[:, PROMPT:]
            actual = read_in_parts(model, later, cache, [1] * later.shape[1])
            require_equal(actual, expected, f"{what}: logits after rows are {told}", TOLERANCE)
        beams = {"num_beams": 3, "max_new_tokens": 4}
        plain = generate(model, ids, use_cache=False, **beams)
        require_same_tokens(generate(model, ids, **beams), plain, f"{what}: generation with beams")


def check_crop(subject: Subject) -> None:
    """Tokens can be taken back from the cache, as assisted and prompt-lookup decoding do with refused drafts."""
    ids = random_ids(2, LENGTH)
    for what, model in decoders(subject):
        cache = DynamicCache(config=model.config)
        if not all(getattr(layer, "is_croppable", True) for layer in cache.layers):
            raise DoesNotApply("its cache layer says `is_croppable = False`: assisted decoding refuses it")
        read_in_parts(model, ids[:, :PROMPT], cache, [PROMPT])
        cache.activate_past_recording()
        for place in (PROMPT, PROMPT + 1):  # two rounds of drafts of three tokens, all of which are taken back
            draft = random_ids(2, 3, seed=place)
            read_in_parts(model, torch.cat([ids[:, [place]], draft], dim=1), cache, [4])
            cache.crop(-3)
        actual = read_in_parts(model, ids[:, PROMPT + 2 :], cache, [1] * (LENGTH - PROMPT - 2))
        require_equal(actual, outputs(model, ids)[:, PROMPT + 2 :], f"{what}: logits after a crop", TOLERANCE)
        text = torch.cat([ids[:1, :PROMPT], ids[:1, :PROMPT]], dim=1)
        plain = generate(model, text, use_cache=False)
        found = generate(model, text, prompt_lookup_num_tokens=3)
        require_same_tokens(found, plain, f"{what}: generation with prompt lookup")


def check_static_cache(subject: Subject) -> None:
    """A static cache, with room left, gives the same, also with padding."""
    ids, mask = padded_ids()
    for what, model in decoders(subject):
        for sizes in ([PROMPT, *[1] * (LENGTH - PROMPT)], [2, 4, 1, 3, 2]):
            cache = StaticCache(config=model.config, max_cache_len=LENGTH + 5)
            actual = read_in_parts(model, ids, cache, sizes)
            require_equal(actual, outputs(model, ids), f"{what}: logits with a static cache", TOLERANCE)
        plain = generate(model, ids, attention_mask=mask, use_cache=False)
        found = generate(model, ids, attention_mask=mask, cache_implementation="static")
        require_same_tokens(found, plain, f"{what}: generation with a static cache")
