"""Every form in which a caller says who sees whom, against a statement of it token by token."""

import re
from functools import cache

import pytest
import torch
from support.late_model_errors import masks_of_a_source
from support.tiny import SIZES, random_ids, tiny_model
from transformers import StaticCache

from trine import TrineSeq2SeqConfig, TrineSeq2SeqModel
from trine.configuration.kinds import ATTENTION_KINDS
from trine.modeling.masks.masks import make_masks, make_ready_masks, packed_lengths, read_ready_mask
from trine.modeling.masks.visibility import EVERYTHING, Visibility


BATCH, LENGTH, WINDOW, CHUNK = 2, 53, 8, 8
CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
ATTN = pytest.mark.parametrize("attn", ["eager", "sdpa"])
PAIRWISE = [kind for kind, row in ATTENTION_KINDS.items() if row.has_pair_scores]
OTHERS = [kind for kind, row in ATTENTION_KINDS.items() if not row.has_pair_scores]
INDEX = torch.arange(LENGTH)
PADDING = {
    "left": torch.stack([INDEX >= 13, INDEX >= 0]),
    "right": torch.stack([INDEX < 40, INDEX < 52]),
    "holes": torch.stack([(INDEX % 7 != 3) & (INDEX >= 5), INDEX % 11 != 2]),
}
# Positions that start again: other places in each row.
PACKED = torch.stack([INDEX % 19, torch.where(INDEX < 20, INDEX, INDEX - 20)])
EXCLUDED = pytest.mark.parametrize("case", PADDING)


@cache
def model_of(kind: str, is_causal: bool = True, attn: str = "sdpa"):
    return tiny_model(attention_types=kind, is_causal=is_causal, attn=attn, num_hidden_layers=1)


def seen_by(kind: str, is_causal: bool, attention_mask=None, position_ids=None, attn="sdpa", lengths=None):
    """What the layer of a model reads."""
    model = model_of(kind, is_causal, attn)
    batch = 1 if lengths else BATCH
    made = make_masks(model.config, torch.empty(batch, LENGTH, 32), attention_mask, None, position_ids, lengths)
    assert list(made) == [ATTENTION_KINDS[kind].layer_type]
    return made[ATTENTION_KINDS[kind].layer_type]


def table_of_band(band, length: int) -> torch.Tensor:
    """(B, Q, K), out of the keys around each block of queries."""
    batch, _, block, width = band.visible.shape
    table = torch.zeros(batch, length, length, dtype=torch.bool)
    for query in range(length):
        number = query // block
        first = (number - band.back) * block  # the key of the first column
        keys = range(max(first, 0), min(first + width, length))
        table[:, query, keys.start : keys.stop] = band.visible[
            :, number, query % block, keys.start - first : keys.stop - first
        ]
    return table


def table_of(seen: Visibility, kind: str, is_causal: bool) -> torch.Tensor:
    """Whether a query sees a key, (B, Q, K), by the fields alone and, where none speaks, by the kind."""
    if seen.band is not None:
        assert seen.mask is None and seen.lengths is None
        return table_of_band(seen.band, LENGTH)
    if kind in OTHERS:
        assert seen.mask is None and seen.lengths is None
        if seen.segments is not None:
            assert seen.is_token is None and seen.segments.dtype == torch.int32 and seen.segments.min() >= 1
            return seen.segments[:, :, None] == seen.segments[:, None]
        return (torch.ones(1, LENGTH).bool() if seen.is_token is None else seen.is_token)[:, None]
    assert seen.is_token is None and seen.segments is None
    longest = max(seen.lengths or [LENGTH])
    mask = seen.mask
    if mask is None:  # the kernel is told `is_causal`
        assert kind == "full"
        mask = torch.ones(longest, longest).bool()[None, None]
        mask = mask.tril() if is_causal else mask
    visible = (mask if mask.dtype == torch.bool else mask == 0)[:, 0]
    if seen.lengths is None:
        return visible
    return torch.block_diag(*[visible[0, :length, :length] for length in seen.lengths]).bool()[None]


def sees(kind: str, is_causal: bool, query: int, key: int) -> bool:
    """Whether a query may see a key of its sequence, by their places after its first token.

    Kinds without a table of pairs hide the rest of it by themselves.
    """
    if kind in OTHERS:
        return True
    if is_causal and key > query:
        return False
    if kind == "sliding":
        return query - key < WINDOW if is_causal else abs(query - key) <= WINDOW
    return kind != "chunked" or query // CHUNK == key // CHUNK


def expected_table(kind: str, is_causal: bool, real: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """Who sees whom, (B, Q, K), token by token.

    Args:
        real: (B, K), whether there is a token.
        sequences: (B, K), the number of the sequence of each.
    """
    table = []
    for tokens, numbers in zip(real.tolist(), sequences.tolist(), strict=True):
        starts = {number: max(numbers.index(number), tokens.index(True)) for number in numbers}
        places = [place - starts[number] for place, number in enumerate(numbers)]
        keys = list(zip(tokens, numbers, places, strict=True))
        table += [
            [is_token and own == number and sees(kind, is_causal, place, other) for is_token, own, other in keys]
            for number, place in zip(numbers, places, strict=True)
        ]
    return torch.tensor(table).view(len(real), LENGTH, LENGTH)


def check(seen: Visibility, kind: str, is_causal: bool, real=None, sequences=None) -> None:
    """Compares what queries that are tokens see."""
    real = torch.ones(BATCH, LENGTH).bool() if real is None else real
    sequences = torch.zeros(len(real), LENGTH).long() if sequences is None else sequences
    expected = expected_table(kind, is_causal, real, sequences)
    actual = table_of(seen, kind, is_causal).expand(len(real), LENGTH, LENGTH)
    assert torch.equal(actual[real], expected[real])


@ATTN
@CAUSAL
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_without_a_mask_all_belong_together(kind, is_causal, attn):
    for mask in (None, torch.ones(BATCH, LENGTH).long()):
        seen = seen_by(kind, is_causal, mask, attn=attn)
        check(seen, kind, is_causal)
        assert kind in PAIRWISE or seen == EVERYTHING


@ATTN
@CAUSAL
@EXCLUDED
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_padding_is_seen_by_nobody(kind, case, is_causal, attn):
    for dtype in (torch.bool, torch.long, torch.float32):
        check(seen_by(kind, is_causal, PADDING[case].to(dtype), attn=attn), kind, is_causal, PADDING[case])


@ATTN
@CAUSAL
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_packed_sequences_do_not_see_each_other(kind, is_causal, attn):
    sequences = (PACKED == 0).cumsum(dim=-1)
    check(seen_by(kind, is_causal, None, PACKED, attn), kind, is_causal, sequences=sequences)


@CAUSAL
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_a_row_that_packs_sequences_is_known_by_their_lengths(kind, is_causal):
    lengths = packed_lengths(None, None, PACKED[:1])
    assert lengths == [19, 19, 15]
    seen = seen_by(kind, is_causal, None, PACKED[:1], lengths=lengths)
    check(seen, kind, is_causal, torch.ones(1, LENGTH).bool(), (PACKED[:1] == 0).cumsum(dim=-1))
    assert seen.lengths == (lengths if seen.band is None and kind in PAIRWISE else None)


def ready(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask of pairs that no kind would make, as it is given, and as booleans."""
    allowed = (INDEX[:, None] * 7 + INDEX * 3) % 5 != 0
    allowed = (allowed | torch.eye(LENGTH).bool()).expand(BATCH, 1, LENGTH, LENGTH)
    given = (
        allowed if dtype == torch.bool else torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -torch.inf)
    )
    return given, allowed[:, 0]


@ATTN
@CAUSAL
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("kind", PAIRWISE)
def test_a_mask_of_pairs_is_all_that_hides(kind, dtype, is_causal, attn):
    given, allowed = ready(dtype)
    for mask in (given, {ATTENTION_KINDS[kind].layer_type: given}):
        seen = seen_by(kind, is_causal, mask, attn=attn)
        assert seen == Visibility(mask=seen.mask)
        assert torch.equal(table_of(seen, kind, is_causal), allowed)


@CAUSAL
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("kind", OTHERS)
def test_kinds_without_a_table_of_pairs_refuse_a_mask_of_pairs(kind, dtype, is_causal):
    given, _ = ready(dtype)
    model, ids = model_of(kind, is_causal), random_ids(BATCH, LENGTH)
    for mask in (given, {ATTENTION_KINDS[kind].layer_type: given}):
        with pytest.raises(ValueError, match=rf"shape \(2, 1, 53, 53\), but layers of the kinds .*'{kind}'"):
            model(ids, attention_mask=mask)


@CAUSAL
@EXCLUDED
@pytest.mark.parametrize("kind", OTHERS)
def test_padding_in_a_dict_is_read_as_padding(kind, case, is_causal):
    layer_type = ATTENTION_KINDS[kind].layer_type
    for mask in (PADDING[case], PADDING[case].long()):
        check(seen_by(kind, is_causal, {layer_type: mask}), kind, is_causal, PADDING[case])
    assert seen_by(kind, is_causal, {layer_type: None}) == EVERYTHING


@CAUSAL
def test_a_dict_of_masks_has_one_for_each_type(is_causal):
    model = tiny_model(attention_types="full, sliding", is_causal=is_causal)
    ids = random_ids(BATCH, LENGTH)
    message = r"keys \['full_attention'\], but needs \['full_attention', 'sliding_attention'\]: 'sliding_attention' is"
    with pytest.raises(ValueError, match=message):
        model(ids, attention_mask={"full_attention": None})
    masks = dict.fromkeys(("full_attention", "sliding_attention", "another"))
    assert model(ids, attention_mask=masks)[0].isfinite().all()


def test_an_encoder_decoder_takes_a_dict_for_the_target_alone():
    model, ids = TrineSeq2SeqModel(TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES)).eval(), random_ids(BATCH, LENGTH)
    masks = {"full_attention": None}
    given, expected = (
        model(ids, decoder_input_ids=ids, decoder_attention_mask=masks),
        model(ids, decoder_input_ids=ids),
    )
    assert given[0].shape == expected[0].shape and given[0][:, -1].equal(expected[0][:, -1])
    expected = r"\['full_attention'\], but must be a tensor \(batch, source length\): cross-attention reads it, too."
    assert re.search(expected, masks_of_a_source())


@pytest.mark.parametrize("attention_mask", [None, PADDING["left"].long()], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_what_a_static_cache_is_given_ahead_says_the_same(kind, attention_mask):
    """`generate` hands on tensors, or None, which the forward pass reads again."""
    config, layer_type = model_of(kind).config, ATTENTION_KINDS[kind].layer_type
    arguments = (config, torch.empty(BATCH, LENGTH, 32), attention_mask, StaticCache(config, LENGTH + 3), None)
    (made,), tensors = make_masks(*arguments).values(), make_ready_masks(*arguments)
    assert all(value is None or torch.is_tensor(value) for value in tensors.values())
    again = read_ready_mask(layer_type, tensors[layer_type])
    for name, value in made._asdict().items():
        given = getattr(again, name)
        assert given is value or torch.equal(given, value), name


def test_layers_of_one_model_read_each_what_their_kind_needs():
    kinds = list(ATTENTION_KINDS)
    model = tiny_model(attention_types=", ".join(kinds), attn="sdpa", num_hidden_layers=len(kinds))
    made = make_masks(model.config, torch.empty(BATCH, LENGTH, 32), PADDING["left"].long(), None, None)
    for kind in kinds:
        check(made[ATTENTION_KINDS[kind].layer_type], kind, True, PADDING["left"])
    fields = {
        kind: {n for n, v in made[ATTENTION_KINDS[kind].layer_type]._asdict().items() if v is not None}
        for kind in kinds
    }
    bands = {"sliding", "chunked"}
    assert fields == {k: {"band"} if k in bands else {"mask"} if k in PAIRWISE else {"is_token"} for k in kinds}
