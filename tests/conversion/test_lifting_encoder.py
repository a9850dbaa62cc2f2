"""A decoder that reads both ways: the same weights by the loops with a full mask, its head, its mask token."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support import reference
from support.plugins import tables_restored
from support.tiny import SPARSE, leaves, random_ids, tiny_model
from transformers import AutoModel, AutoTokenizer, pipeline

from trine import (
    PairwiseAttention,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineModel,
    lift,
    register_attention,
    train_byte_level_bpe,
)
from trine.conversion import largest_change
from trine.scripts import lift as command


LENGTH = 13
DECODERS = {
    **{kind: {"attention_types": kind} for kind in ("full", "sliding", "chunked", "linear", "performer", "lsh")},
    "bigbird": {"attention_types": "bigbird", "bigbird_num_window_blocks": 2},
    "simplicial": {"attention_types": "simplicial", "sliding_window": 5},
    "relative": {"position_type": "relative"},
    "untied": {"tie_word_embeddings": False, **SPARSE},
}


def decoder(name, **fields):
    return tiny_model(**{"position_type": "learned", **DECODERS[name], **fields})


def mirrored(model) -> dict[str, torch.Tensor]:
    """The weights of a decoder, with what it holds for distances back also for those ahead."""
    tensors = leaves(model)
    for name, tensor in tensors.items():
        if name.endswith("relative_attention_bias.weight"):
            tensors[name] = torch.cat([tensor, tensor])
        if name.endswith("offset_bias"):  # distances from the farthest back to 0, and on to the farthest ahead
            tensors[name] = torch.cat([tensor, *(tensor[:, -1 - d, None] for d in range(1, tensor.shape[1]))], dim=1)
    return tensors


@pytest.mark.parametrize("name", DECODERS)
def test_it_is_the_same_weights_with_a_full_mask(name):
    """Each token is predicted from the state before it, the first from its own."""
    model, ids = decoder(name), random_ids(LENGTH)
    lifted, tensors = lift(model, "encoder"), mirrored(model)
    assert type(lifted) is TrineForMaskedLM and not lifted.config.is_causal
    states = reference.trunk(lifted.config, reference.Weights(tensors)["model"], ids.tolist())
    expected = torch.cat([states[:1], states[:-1]]) @ tensors["lm_head.weight"].T
    torch.testing.assert_close(lifted(ids[None]).logits[0], expected, rtol=1e-8, atol=1e-8)
    assert not torch.equal(states[0], model.model(ids[None]).last_hidden_state[0, 0])
    assert lifted.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()
    assert (lifted.lm_head.weight is lifted.model.embed_tokens.weight) == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["sliding", "simplicial", "bigbird"])
def test_windows_reach_as_far_ahead_as_back(name):
    """A change of one token reaches, in one layer, the same number of tokens on both sides."""
    model = decoder(name, num_hidden_layers=1, bigbird_num_global_blocks=0, bigbird_num_random_blocks=0)
    lifted, ids = lift(model, "encoder", bare=True), random_ids(1, 48)
    changed = ids.clone()
    changed[0, 21] = 5
    with torch.no_grad():
        reached = (lifted(ids)[0] != lifted(changed)[0]).any(dim=-1)[0].nonzero()
        ahead = (model.model(ids)[0] != model.model(changed)[0]).any(dim=-1)[0].nonzero()
    start = 21 // 4 * 4 if name == "bigbird" else 21  # of its block
    end = start + 3 if name == "bigbird" else 21
    assert int(reached.max()) == int(ahead.max()) and start - int(reached.min()) == int(reached.max()) - end


def test_one_token_is_the_same_and_two_are_not():
    model = decoder("full")
    lifted = lift(model, "encoder")
    one, two = random_ids(1, 1), random_ids(1, 2)
    torch.testing.assert_close(lifted(one).logits, model(one).logits, rtol=1e-12, atol=1e-12)
    assert (lifted(two).logits[0, 0] - model(two).logits[0, 0]).abs().max() > 1e-3
    assert largest_change(model, lifted) > 1e-3


def test_trunks_classifiers_and_prefixes_become_encoders():
    trunk = lift(tiny_model(TrineModel, is_causal=True), "encoder")
    bare = lift(decoder("full"), "encoder", bare=True)
    assert type(trunk) is type(bare) is TrineModel
    classifier = lift(tiny_model(TrineForSequenceClassification, pad_token_id=0), "encoder")
    assert type(classifier) is TrineForSequenceClassification and classifier.config.classifier_pooling == "last"
    assert not lift(decoder("full", prefix_lm=True), "encoder").config.prefix_lm


def test_a_kind_for_decoders_only_is_refused_by_name():
    with tables_restored():

        @register_attention("onward", shareable=False)
        class Onward(PairwiseAttention):
            causal_only = True

        with pytest.raises(ValueError, match="attention_types has 'onward', which reads a text from left to right"):
            lift(tiny_model(attention_types="full, onward"), "encoder")


@pytest.mark.parametrize("chunk", [None, 3])
def test_padded_and_packed_texts_are_what_they_are_alone_with_their_losses(chunk):
    model = lift(decoder("full", loss_chunk_size=chunk), "encoder").train()
    texts = [random_ids(length, seed=length) for length in (4, 7, 2)]
    alone = [model.eval()(text[None]).logits[0] for text in texts]
    pad = torch.nn.functional.pad
    for side in ((1, 0), (0, 1)):
        pads = [tuple(each * (7 - len(text)) for each in side) for text in texts]
        ids = torch.stack([pad(text, each, value=3) for text, each in zip(texts, pads, strict=True)])
        mask = torch.stack([pad(torch.ones_like(text), each) for text, each in zip(texts, pads, strict=True)])
        logits = model(ids, attention_mask=mask).logits[mask == 1]
        torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-9, atol=1e-9)
    row, positions = torch.cat(texts)[None], torch.cat([torch.arange(len(text)) for text in texts])[None]
    torch.testing.assert_close(model(row, position_ids=positions).logits[0], torch.cat(alone), rtol=1e-9, atol=1e-9)
    labels = row.masked_fill(torch.arange(13) % 3 != 1, -100)
    expected = torch.nn.functional.cross_entropy(torch.cat(alone), labels[0])
    loss = model.train()(row, position_ids=positions, labels=labels).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def lifted_folder(tmp_path_factory):
    """A decoder in a folder with a tokenizer without a mask token, lifted by the command."""
    folder = tmp_path_factory.mktemp("lifted")
    texts = ["the house is red", "the horse is white", "a red stone"] * 4
    tokenizer = train_byte_level_bpe(texts, 280, show_progress=False)
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "dtype": torch.float32}
    for name, vocabulary in {"exact": len(tokenizer), "padded": len(tokenizer) + 7}.items():
        tokenizer.save_pretrained(folder / name)
        tiny_model(**{**fields, "vocab_size": vocabulary}).save_pretrained(folder / name)
        command.main([str(folder / name), str(folder / f"{name}-lifted"), "--to", "encoder"])
    return folder


@pytest.mark.parametrize("name", ["exact", "padded"])
def test_a_tokenizer_gets_a_mask_token_and_the_model_its_row(lifted_folder, name, capsys):
    before = AutoTokenizer.from_pretrained(lifted_folder / name)
    tokenizer = AutoTokenizer.from_pretrained(lifted_folder / f"{name}-lifted")
    assert before.mask_token is None and tokenizer.mask_token == "[MASK]" and len(tokenizer) == len(before) + 1
    decoder, model = (
        AutoModel.from_pretrained(lifted_folder / name),
        TrineForMaskedLM.from_pretrained(lifted_folder / f"{name}-lifted"),
    )
    table, old = model.model.embed_tokens.weight, decoder.embed_tokens.weight
    assert len(table) == max(len(old), len(tokenizer)) and model.lm_head.weight is table
    torch.testing.assert_close(table[len(before)], old[: len(before)].mean(dim=0))
    assert torch.equal(table[: len(before)], old[: len(before)])
    answers = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=2)("the house is[MASK]")
    ids = tokenizer("the house is[MASK]", return_tensors="pt")["input_ids"]
    best = model(ids).logits[0, ids[0].tolist().index(tokenizer.mask_token_id)].argmax()
    assert answers[0]["token"] == best


def test_it_embeds_texts_by_the_mean_of_their_states(lifted_folder):
    folder, text = str(lifted_folder / "exact-lifted"), "the red house"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    found = SentenceTransformer(folder).encode([text, "a white horse that is longer"])[0]
    torch.testing.assert_close(torch.tensor(found), states.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_the_command_says_what_it_did(lifted_folder, tmp_path, capsys):
    source, target = lifted_folder / "exact", tmp_path / "lifted"
    command.main([str(source), str(target), "--to", "encoder", "--mask_token", "<mask>"])
    size = TrineForMaskedLM.from_pretrained(target).config.vocab_size
    assert capsys.readouterr().out.splitlines() == [
        f"The tokenizer had no mask token: '<mask>' is added, with id {size - 1}.",
        f"{source} -> {target}",
        "The function changes: the model is to be trained on.",
    ]
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "words apart")
    command.main([str(tmp_path / "words apart"), str(tmp_path / "bare"), "--to", "encoder", "--bare"])
    told = "There is no tokenizer: one with a mask token is needed to train masked next tokens."
    assert capsys.readouterr().out.splitlines()[0] == told
    assert AutoModel.from_pretrained(tmp_path / "bare").config.architectures == ["TrineModel"]
