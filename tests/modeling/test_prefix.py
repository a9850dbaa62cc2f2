"""Prefixes that are read both ways: against the definition, padded, packed, cached, and without the package."""

from functools import partial

import pytest
import torch
from support import forks
from support.own_kinds import Near
from support.plugins import tables_restored
from support.reference.attention import ATTENTIONS, pairwise_attention
from support.tiny import assert_gradients_equal, expected_output, leaves, random_ids, tiny_config, tiny_model

from trine import KindField, TrineForCausalLM, register_attention, train_byte_level_bpe
from trine.configuration.bundle import files_of
from trine.configuration.kinds import ATTENTION_KINDS
from trine.inspection.next_tokens import next_token_probabilities


LENGTH, WINDOW = 11, 4
KINDS = ("full", "sliding", "chunked")
SMALL = {"sliding_window": WINDOW, "attention_chunk_size": 5, "prefix_lm": True, "position_type": "learned"}
MIXED = {**SMALL, "num_hidden_layers": 3, "attention_types": "sliding, full, chunked"}


def sees(kind, prefix, config, query, key) -> bool:
    """Raffel et al. 2019, arXiv 1910.10683, figure 3; windows reach as far ahead as back, chunks are whole."""
    near = {
        "full": True,
        "sliding": abs(query - key) < WINDOW,
        "chunked": query // config.attention_chunk_size == key // config.attention_chunk_size,
    }
    return near[kind] and (key <= query or max(query, key) < prefix)


@pytest.fixture
def define(monkeypatch):
    """The outputs of one text by the definition, with a prefix."""

    def outputs(model, tokens, prefix, tensors=None):
        for kind in KINDS:
            monkeypatch.setitem(ATTENTIONS, kind, partial(pairwise_attention, partial(sees, kind, prefix)))
        return expected_output(model, tokens.tolist(), tensors)

    return outputs


@pytest.mark.parametrize("prefix", [0, 1, 3, 8, LENGTH, 20])
@pytest.mark.parametrize(
    "fields",
    [
        *({"attention_types": kind} for kind in KINDS),
        {**MIXED, "position_type": "relative"},
        {"norm_position": "post"},
    ],
    ids=[*KINDS, "relative positions", "post-norm"],
)
def test_outputs_and_gradients_are_those_of_the_definition(define, prefix, fields):
    model, tokens = tiny_model(**{**SMALL, **fields}), random_ids(LENGTH)
    tensors = leaves(model)
    expected = define(model, tokens, prefix, tensors)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected * direction).sum().backward()
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        actual = model(tokens[None], prefix_length=prefix).logits[0]
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
        (actual * direction).sum().backward()
        assert_gradients_equal(model, tensors, rtol=1e-7, atol=1e-9)


def test_flex_attention_sees_the_same():
    """Without compilation, which takes 20 seconds: what is tested is the mask that the kernel gets."""
    model = tiny_model(**MIXED, head_dim=16)
    ids, prefix = random_ids(2, LENGTH), torch.tensor([3, 8])
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = model(ids, prefix_length=prefix).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(ids, prefix_length=prefix).logits, expected, rtol=1e-8, atol=1e-10)
        assert (model(ids).logits - expected).abs().max() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_padding_shifts_no_prefix(define, side, attn):
    model, lengths, prefixes = tiny_model(**MIXED, attn=attn), [LENGTH, 7], [4, 6]
    texts = [random_ids(length, seed=length) for length in lengths]
    pads = [LENGTH - length for length in lengths]
    pads = [(pad, 0) if side == "left" else (0, pad) for pad in pads]
    pad = torch.nn.functional.pad
    ids = torch.stack([pad(text, each) for text, each in zip(texts, pads, strict=True)])
    mask = torch.stack([pad(torch.ones_like(text), each) for text, each in zip(texts, pads, strict=True)])
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, prefix_length=torch.tensor(prefixes)).logits
    for row, (text, prefix) in enumerate(zip(texts, prefixes, strict=True)):
        expected = define(model, text, prefix)
        torch.testing.assert_close(logits[row][mask[row] == 1], expected.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("prefixes", [4, [0, 3, 9], [7, 2, 1]], ids=str)
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_packed_texts_have_the_prefixes_that_they_have_alone(define, prefixes, attn):
    model = tiny_model(**MIXED, attn=attn)
    texts = [random_ids(length, seed=length) for length in (7, 3, 12)]
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None]
    given = prefixes if isinstance(prefixes, int) else torch.tensor(prefixes)
    with torch.no_grad():
        logits = model(torch.cat(texts)[None], position_ids=positions, prefix_length=given).logits[0]
    numbers = [prefixes] * 3 if isinstance(prefixes, int) else prefixes
    expected = [define(model, text, prefix) for text, prefix in zip(texts, numbers, strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected).detach(), rtol=1e-8, atol=1e-10)


def test_a_registered_kind_over_pairs_reads_prefixes():
    with tables_restored():
        fields = {"near_window": KindField(3, "Tokens that it sees.", above=0)}
        register_attention("near", fields=fields, shareable=False)(Near)
        assert ATTENTION_KINDS["near"].sees_by == "mask"
        model = tiny_model(attention_types="near", near_window=99, prefix_lm=True)
        twin = tiny_model(attention_types="full", prefix_lm=True)
        ids = random_ids(2, LENGTH)
        with torch.no_grad():
            twin.load_state_dict(model.state_dict())
            torch.testing.assert_close(
                model(ids, prefix_length=6).logits, twin(ids, prefix_length=6).logits, rtol=1e-9, atol=1e-9
            )


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "static": {"cache_implementation": "static"},
    "one prefix": {"prefix_length": 3},
    "prefixes": {"prefix_length": torch.tensor([2, 5])},
    "none": {"prefix_length": 0},
    "chunks": {"prefix_length": 3, "prefill_chunk_size": 6},
}


def write(model, ids, mask, **settings):
    torch.manual_seed(0)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **settings}
    return model.generate(ids, attention_mask=mask, **settings)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = random_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    ids[0, :3] = mask[0, :3] = 0
    return ids, mask


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("way", WAYS)
def test_a_cache_changes_nothing_of_what_follows_a_prefix(way, attn):
    model = tiny_model(**MIXED, attn=attn, scale=6.0)
    cached = write(model, *batch(), **WAYS[way])
    plain = {name: value for name, value in WAYS[way].items() if "cache" not in name and "chunk" not in name}
    assert cached.tolist() == write(model, *batch(), **plain, use_cache=False).tolist()


def test_the_prompt_is_the_prefix_unless_another_is_given(define):
    """Each next token is the best one by the definition."""
    model, (ids, mask) = tiny_model(**MIXED, scale=6.0), batch()
    for given, prefixes in ({"prefix_length": 2}, (2, 2)), ({}, (6, 9)):
        written = write(model, ids, mask, **given, max_new_tokens=4)
        for row, prefix in enumerate(prefixes):
            text = written[row, 3 if row == 0 else 0 :]
            best = define(model, text[:-1], prefix).argmax(dim=-1)
            assert text[-4:].tolist() == best[-4:].tolist()
    causal = tiny_model(**{**MIXED, "prefix_lm": False}, scale=6.0)
    assert written.tolist() != write(causal, ids, mask, max_new_tokens=4).tolist()


@pytest.mark.parametrize("helper", ["assistant", "prompt lookup", "early exit"])
def test_drafts_change_nothing(helper):
    model, ids = tiny_model(**MIXED, scale=6.0), random_ids(1, 9)
    options = {
        "assistant": {"assistant_model": tiny_model(**MIXED, seed=1)},
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
        "early exit": {"assistant_early_exit": 1},
    }
    expected = write(model, ids, None, use_cache=False, max_new_tokens=12)
    assert write(model, ids, None, **options[helper], max_new_tokens=12).tolist() == expected.tolist()


def test_embeddings_have_prefixes_and_a_cache_goes_on_causally(define):
    model, ids = tiny_model(**MIXED, scale=6.0), random_ids(1, 9)
    written = write(model, ids, None)
    embeds = model.get_input_embeddings()(ids)
    from_embeds = model.generate(inputs_embeds=embeds, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert from_embeds.tolist() == written[:, 9:].tolist()
    first = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
    more = torch.cat([first.sequences, random_ids(1, 4, seed=5)], dim=1)
    gone_on = model.generate(more, past_key_values=first.past_key_values, max_new_tokens=4, pad_token_id=0)
    best = define(model, gone_on[0, :-1], 9).argmax(dim=-1)
    assert gone_on[0, -4:].tolist() == best[-4:].tolist()


def test_the_table_of_next_tokens_reads_texts_as_generation_does():
    texts = ["the cat sat on the mat", "a cat"]
    tokenizer = train_byte_level_bpe(texts, vocab_size=270, show_progress=False)
    model = tiny_model(**MIXED, vocab_size=len(tokenizer), scale=6.0)
    for text, (best, *_) in zip(texts, next_token_probabilities(model, tokenizer, texts), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert write(model, ids, None, max_new_tokens=1)[0, -1] == best.id


def test_a_plain_decoder_carries_no_prefixes():
    plain, reads = ("".join(files_of(tiny_config(prefix_lm=value)).values()) for value in (False, True))
    for name in ("make_prefix_masks", "PrefixGeneration", "check_prefix"):
        assert name in reads and name not in plain


PROGRAM = """
import sys
sys.modules["trine"] = None
import torch
from transformers import AutoModelForCausalLM

ids, mask = torch.load("inputs.pt")
model = AutoModelForCausalLM.from_pretrained("reads", trust_remote_code=True)
print(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0).tolist())
for fields in ({}, {"prefix_lm": True}):
    plain = AutoModelForCausalLM.from_pretrained("plain", trust_remote_code=True, **fields)
    try:
        plain(ids, prefix_length=2)
    except ValueError as error:
        print(error)
"""


def test_a_checkpoint_reads_prefixes_by_its_own_code(tmp_path):
    model = tiny_model(TrineForCausalLM, dtype=torch.float32, **MIXED)
    model.save_pretrained(tmp_path / "reads")
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "plain")
    torch.save(batch(), tmp_path / "inputs.pt")
    done = forks.run(["-c", PROGRAM], tmp_path)
    assert done.returncode == 0, done.stderr
    tokens, refused, lacking = done.stdout.splitlines()
    assert tokens == str(write(model, *batch()).tolist())
    assert refused.startswith("prefix_length=2 is given, but prefix_lm=False")
    assert lacking.startswith("prefix_lm=True is not one of [False]. This checkpoint's own code holds")
