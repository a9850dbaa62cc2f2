"""Padding changes nothing, packed sequences do not see each other, and positions count real tokens."""

import pytest
import torch
from support.tiny import MIXED, assert_gradients_equal, expected_output, leaves, output_of, random_ids, tiny_model

from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS


CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
KIND = pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
EVERY_POSITION = pytest.mark.parametrize("position_type", sorted(POSITION_KINDS))
LENGTHS = (5, 12, 9)
LONG_WINDOWS = {"sliding_window": 20, "attention_chunk_size": 20}


def tolerances(model) -> dict:
    """The angles of rotary positions are computed in float32."""
    exact = model.config.position_type != "rope"
    return {"rtol": 1e-8, "atol": 1e-9} if exact else {"rtol": 1e-3, "atol": 1e-4}


def pad(rows: list[torch.Tensor], width: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with padding 0 on one side, and the mask."""
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, where], mask[index, where] = row, 1
    return ids, mask


def pack(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of ids, and positions that start again at 0 with every sequence."""
    return torch.cat(rows)[None], torch.cat([torch.arange(len(row)) for row in rows])[None]


def check_padding(side, width, **fields):
    model = tiny_model(**fields)
    rows = [random_ids(length, seed=length) for length in LENGTHS]
    expected = [expected_output(model, row.tolist()) for row in rows]
    ids, mask = pad(rows, width, side)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for use_cache in (False, True):
            with torch.no_grad():
                output = output_of(model(ids, attention_mask=mask, use_cache=use_cache))
            assert output.isfinite().all()
            for actual, row_mask, row in zip(output, mask, expected, strict=True):
                torch.testing.assert_close(actual[row_mask == 1], row, **tolerances(model))


@CAUSAL
@KIND
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [12, 19])
def test_padding_changes_nothing(width, side, kind, is_causal):
    check_padding(side, width, attention_types=kind, is_causal=is_causal, position_type="none", num_hidden_layers=1)


@CAUSAL
@EVERY_POSITION
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_shifts_no_position(side, position_type, is_causal):
    check_padding(side, 15, position_type=position_type, is_causal=is_causal, **MIXED)


@CAUSAL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_row_of_padding_alone_is_no_nan(attn, dtype, is_causal):
    model = tiny_model(attn=attn, dtype=dtype, is_causal=is_causal, scale=1.0, position_type="relative", **MIXED)
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0] = 0
    mask[1, :9] = 0
    output = output_of(model(ids, attention_mask=mask))
    assert output.isfinite().all()
    output[mask == 1].float().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_padding_changes_no_gradient(attn, side):
    model = tiny_model(attn=attn, position_type="relative", **MIXED)
    rows = [random_ids(length, seed=length) for length in LENGTHS]
    tensors = leaves(model)
    sum(expected_output(model, row.tolist(), tensors).square().sum() for row in rows).backward()
    ids, mask = pad(rows, 16, side)
    model(ids, attention_mask=mask, use_cache=False).logits[mask == 1].square().sum().backward()
    assert_gradients_equal(model, tensors, rtol=1e-7, atol=1e-7)


@CAUSAL
@KIND
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_no_mask_equals_a_mask_of_ones(attn, kind, is_causal):
    model = tiny_model(attn=attn, attention_types=kind, is_causal=is_causal)
    ids = random_ids(2, 19)
    for mask in (torch.ones_like(ids), torch.ones_like(ids).bool()):
        torch.testing.assert_close(output_of(model(ids, attention_mask=mask)), output_of(model(ids)))


@CAUSAL
@KIND
@pytest.mark.parametrize("use_cache", [False, True])
def test_packed_equals_separate(use_cache, kind, is_causal):
    """At lengths that are no multiples of the window, so that a window counted across sequences would show."""
    position_type = "relative" if ATTENTION_KINDS[kind].has_pair_scores else "learned"
    model = tiny_model(attention_types=kind, is_causal=is_causal, position_type=position_type)
    rows = [random_ids(length, seed=length) for length in (*LENGTHS, 1)]
    ids, positions = pack(rows)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            output = output_of(model(ids, position_ids=positions, use_cache=use_cache))[0]
        for actual, row in zip(output.split([len(row) for row in rows]), rows, strict=True):
            torch.testing.assert_close(actual, expected_output(model, row.tolist()), **tolerances(model))


@CAUSAL
@EVERY_POSITION
def test_packed_rows_of_a_batch_may_differ(position_type, is_causal):
    model = tiny_model(position_type=position_type, is_causal=is_causal, **MIXED)
    packs = [[random_ids(length, seed=length) for length in lengths] for lengths in ((5, 12, 3), (11, 9))]
    ids, positions = (torch.cat(parts) for parts in zip(*map(pack, packs), strict=True))
    with torch.no_grad():
        output = output_of(model(ids, position_ids=positions, use_cache=False))
    for actual, rows in zip(output, packs, strict=True):
        expected = torch.cat([expected_output(model, row.tolist()) for row in rows])
        torch.testing.assert_close(actual, expected, **tolerances(model))


def test_packed_sequences_train_like_separate_ones():
    model = tiny_model(position_type="relative", **MIXED)
    rows = [random_ids(length, seed=length) for length in LENGTHS]
    tensors = leaves(model)
    sum(expected_output(model, row.tolist(), tensors).square().sum() for row in rows).backward()
    ids, positions = pack(rows)
    model(ids, position_ids=positions, use_cache=False).logits.square().sum().backward()
    assert_gradients_equal(model, tensors, rtol=1e-7, atol=1e-7)


@EVERY_POSITION
def test_positions_follow_from_the_mask(position_type):
    model = tiny_model(position_type=position_type, **MIXED)
    ids, mask = pad([random_ids(length, seed=length) for length in LENGTHS], 14, "left")
    counted = torch.tensor([[0] * (14 - length) + list(range(length)) for length in LENGTHS])
    expected = model(ids, attention_mask=mask, position_ids=counted).logits
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected, rtol=0, atol=0)


@EVERY_POSITION
@pytest.mark.parametrize("masked", [False, True])
def test_positions_go_on_after_the_cache(masked, position_type):
    """One token, then several, after a left-padded start; each equals the run over everything."""
    model = tiny_model(position_type=position_type, **MIXED)
    ids, mask = pad([random_ids(20), random_ids(13)], 20, "left")
    if not masked:
        ids, mask = random_ids(2, 20), None
    expected = model(ids, attention_mask=mask, use_cache=False).logits
    cache, parts = None, []
    for start, stop in ((0, 9), (9, 10), (10, 17), (17, 20)):
        seen = mask[:, :stop] if masked else None
        outputs = model(ids[:, start:stop], attention_mask=seen, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        parts.append(outputs.logits)
    actual = torch.cat(parts, dim=1)
    real = mask == 1 if masked else torch.ones_like(ids).bool()
    torch.testing.assert_close(actual[real], expected[real], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", sorted(set(ATTENTION_KINDS) - {"simplicial"}))
@torch.no_grad()
def test_padding_between_a_text_and_its_continuation(kind):
    """A conversation: the shorter second turn is padded on its left, behind what the cache holds.

    Windows, longer than the texts here, count places, as Mistral's do.
    """
    model = tiny_model(attention_types=kind, **LONG_WINDOWS)
    ids, mask = random_ids(2, 20), torch.ones(2, 20, dtype=torch.long)
    mask[1, 9:14] = 0
    cache = model(ids[:, :9], use_cache=True).past_key_values
    actual = model(ids[:, 9:], attention_mask=mask, past_key_values=cache, use_cache=True).logits
    expected = expected_output(model, ids[1][mask[1] == 1].tolist())
    torch.testing.assert_close(actual[1, 5:], expected[9:], **tolerances(model))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@torch.no_grad()
def test_texts_share_a_prefix_under_a_mask_of_pairs(attn):
    """Three last tokens in one row, each of which sees the prefix and itself; `eager` reads booleans, too."""
    model = tiny_model(attn=attn)
    ids, positions = random_ids(1, 7), torch.tensor([[0, 1, 2, 3, 4, 4, 4]])
    allowed = torch.ones(7, 7).tril().bool()
    allowed[4:, 4:] = torch.eye(3).bool()
    logits = model(ids, attention_mask=allowed[None, None], position_ids=positions).logits[0]
    for last in (4, 5, 6):
        expected = expected_output(model, [*ids[0, :4].tolist(), int(ids[0, last])])
        torch.testing.assert_close(logits[last], expected[-1], **tolerances(model))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_ready_mask_of_four_dimensions_is_used(attn):
    model = tiny_model(attn=attn, position_type="none")
    ids = random_ids(2, 9)
    allowed = torch.ones(9, 9).tril().bool()[None, None].expand(2, 1, 9, 9)
    additive = torch.zeros(2, 1, 9, 9, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    torch.testing.assert_close(model(ids, attention_mask=additive).logits, model(ids).logits)
    masks = {"full_attention": additive}
    torch.testing.assert_close(model(ids, attention_mask=masks).logits, model(ids).logits)


def test_an_encoder_has_no_cache():
    assert tiny_model(is_causal=False)(random_ids(1, 4)).past_key_values is None
