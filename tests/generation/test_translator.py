"""The translator beside the library's `generate` on one text at a time, and what it refuses."""

import re

import pytest
import torch

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
    train_unigram,
)
from trine.generation.coverage import CoverageBeamSearch
from trine.generation.ensembles.model import Ensemble
from trine.generation.translation.translator import Translator, find_tag, known_languages


TEXTS = ["one two", "four", "five six seven eight", "one , two . three", "three four"]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["one two three four", "five six seven eight", "one, two. three four; five"]
    return train_unigram(words, 400, language_tags=["zh", "en"], model_max_length=24, show_progress=False)


def build(tokenizer, seed=0, attn="eager", **fields):
    """A model in float64 whose parameters are all random."""
    torch.manual_seed(seed)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    special |= {"vocab_size": len(tokenizer), "decoder_start_token_id": tokenizer.bos_token_id}
    if "attention" in fields:
        config = TrineRecurrentConfig(hidden_size=16, **special, **fields)
        model = TrineRecurrentForConditionalGeneration(config)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = TrineSeq2SeqConfig.from_preset("tiny", **sizes, **special, **fields)
        config._attn_implementation = attn
        model = TrineForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.double().eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(tokenizer)


def one_by_one(model, tokenizer, texts, **options):
    """Each text by itself, without padding."""
    rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    return [tokenizer.decode(model.generate(row, **options)[0], skip_special_tokens=True) for row in rows]


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"num_beams": 3, "length_penalty": 2.0}])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_by_length_equal_one_text_at_a_time_in_order(model, tokenizer, options, batch_size):
    translator = Translator(model, tokenizer)
    expected = one_by_one(model, tokenizer, TEXTS, max_new_tokens=8, **options)
    assert len({*expected}) > 1
    found = translator(TEXTS, batch_size=batch_size, max_new_tokens=8, **options)
    assert found == [" ".join(text.split()) for text in expected]
    assert translator(TEXTS[2], max_new_tokens=8, **options) == found[2]


def test_coverage_penalty(model, tokenizer):
    options = {"num_beams": 3, "max_new_tokens": 6}
    expected = one_by_one(model, tokenizer, TEXTS, custom_generate=CoverageBeamSearch(5.0), **options)
    found = Translator(model, tokenizer)(TEXTS, coverage_penalty=5.0, **options)
    assert found == [" ".join(text.split()) for text in expected]
    assert found != Translator(model, tokenizer)(TEXTS, **options)


@pytest.mark.parametrize("fields", [{}, {"attention": "dot"}], ids=["transformer", "recurrent"])
def test_alignments_are_the_attention_of_each_step(tokenizer, fields):
    """Computed with a cache, token by token, by `generate`; here in one pass over a padded batch."""
    model = build(tokenizer, **fields)
    found = Translator(model, tokenizer).translate(TEXTS, alignments=True, max_new_tokens=7, do_sample=False)
    for text, item in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        settings = {"max_new_tokens": 7, "output_attentions": True, "return_dict_in_generate": True}
        expected = model.generate(ids, do_sample=False, **settings)
        steps = [torch.stack([layer.mean(1) for layer in step]).mean(0)[0, -1] for step in expected.cross_attentions]
        assert item.alignment.shape == (ids.shape[1], len(steps)) == (len(item.source_tokens), len(item.target_tokens))
        torch.testing.assert_close(item.alignment.double(), torch.stack(steps, dim=1), atol=1e-6, rtol=0)
        torch.testing.assert_close(item.alignment.sum(0), torch.ones(len(steps)))
        assert "".join(item.source_tokens[:-1]).replace("▁", " ") == text and item.source_tokens[-1] == "</s>"


def test_a_target_ends_with_its_end(tokenizer):
    """Rows of a batch end at different steps; what stands after the end is padding, without a column."""
    model = build(tokenizer, seed=3)
    found = Translator(model, tokenizer).translate(TEXTS, alignments=True, max_new_tokens=20, num_beams=4)
    for item in found:
        assert "<pad>" not in item.target_tokens and "</s>" not in item.target_tokens[:-1]
        assert item.alignment.shape == (len(item.source_tokens), len(item.target_tokens))


def test_language_tags(model, tokenizer):
    translator = Translator(model, tokenizer)
    assert known_languages(tokenizer) == ["en", "zh"] and find_tag(tokenizer, "zh") == "<2zh>"
    (plain,), (tagged,) = translator.encode(["one two"]), translator.encode(["one two"], "zh")
    assert tagged == [tokenizer.convert_tokens_to_ids("<2zh>"), *plain]
    assert translator(TEXTS, target_language="zh", max_new_tokens=6) == translator(
        [f"<2zh>{text}" for text in TEXTS], max_new_tokens=6
    )
    with pytest.raises(ValueError, match=re.escape("target_language='fr' is not one of ['en', 'zh'].")):
        translator(TEXTS, target_language="fr")
    untagged = train_unigram(["one two"], 400, show_progress=False)
    with pytest.raises(ValueError, match="target_language='zh' is unknown: the tokenizer has no language tags."):
        find_tag(untagged, "zh")


def test_post_processing_is_that_of_the_language(model, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "decode", lambda *args, **kwargs: " ｏｎｅ , two .")
    assert Translator(model, tokenizer)("one") == "ｏｎｅ , two ."
    assert Translator(model, tokenizer, language="en")("one") == "One, two."


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    names = []
    for seed in range(2):
        names.append(tmp_path_factory.mktemp(f"seed{seed}"))
        build(tokenizer, seed).save_pretrained(names[-1])
        tokenizer.save_pretrained(names[-1])
    return names


def test_one_folder_and_an_ensemble(folders, tokenizer):
    options = {"num_beams": 3, "max_new_tokens": 8}
    models = [build(tokenizer, seed) for seed in range(2)]
    single = Translator.from_pretrained(folders[0], device="cpu")
    assert single(TEXTS, **options) == Translator(models[0], tokenizer)(TEXTS, **options)
    assert Translator.from_pretrained([folders[0]] * 2, device="cpu")(TEXTS, **options) == single(TEXTS, **options)
    both = Translator.from_pretrained(folders, device="cpu", attn_implementation="eager")
    options |= {"coverage_penalty": 0.5}
    assert both(TEXTS, **options) == Translator(Ensemble(models), tokenizer)(TEXTS, **options)
    assert both.translate(["one"], alignments=True, **options)[0].alignment is not None


def test_members_of_other_vocabularies(folders, tmp_path):
    other = train_unigram(["nine ten"], 399, show_progress=False)
    build(other).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="have not the same vocabulary: they are no ensemble."):
        Translator.from_pretrained([folders[0], tmp_path])
    with pytest.raises(ValueError, match="folders is empty"):
        Translator.from_pretrained([])


def test_the_longest_text(model, tokenizer, folders):
    translator = Translator(model, tokenizer)
    assert translator.max_length == 24 and Translator(model, tokenizer, max_length=9).max_length == 9
    long = "one two three " * 20
    count = len(tokenizer(long)["input_ids"])
    message = f"texts[1] has {count} tokens, more than max_length=24: split it, or cut it off with truncation=True."
    with pytest.raises(ValueError, match=re.escape(message)):
        translator(["one", long])
    assert translator([long], truncation=True, max_new_tokens=3)
    assert len(translator.encode([long], truncation=True)[0]) == 24
    limit = model.config.encoder.max_position_embeddings
    for length in (1, limit + 1):
        message = f"max_length={length} must be at least 2, and at most max_position_embeddings={limit}."
        with pytest.raises(ValueError, match=re.escape(message)):
            Translator(model, tokenizer, max_length=length)


def test_progress(model, tokenizer, capsys):
    translator = Translator(model, tokenizer)
    translator(TEXTS, max_new_tokens=2, batch_size=2, show_progress=True)
    assert "5/5" in capsys.readouterr().err
    translator(TEXTS, max_new_tokens=2)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([], {}, ValueError, "texts is empty: there is nothing to translate."),
        (["one", " \n"], {}, ValueError, r"texts\[1\]=' \\n' is empty."),
        ("", {}, ValueError, r"texts\[0\]='' is empty."),
        (["one"], {"batch_size": 0}, ValueError, "batch_size=0 must be at least 1."),
        (["one"], {"coverage_penalty": 0.2}, ValueError, "num_beams=1 leaves nothing to rank by coverage"),
        (["one"], {"coverage_penalty": -1, "num_beams": 2}, ValueError, "penalty=-1 must be a finite number"),
    ],
)
def test_bad_input(model, tokenizer, texts, options, error, message):
    with pytest.raises(error, match=message):
        Translator(model, tokenizer)(texts, max_new_tokens=2, **options)


def test_one_string_is_no_list(model, tokenizer):
    with pytest.raises(TypeError, match="texts='one' is one string; pass a list of strings."):
        Translator(model, tokenizer).translate("one")


def test_unsuitable_models(tokenizer, tmp_path):
    decoder = TrineForCausalLM(TrineConfig.from_preset("tiny", vocab_size=400))
    for part in (decoder, tokenizer):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{tmp_path}' is no encoder-decoder: its model_type is 'trine'."):
        Translator.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="TrineForCausalLM is no encoder-decoder"):
        Translator(decoder, tokenizer)
    silent = build(tokenizer, attn="sdpa")
    with pytest.raises(ValueError, match="language='fr' is not one of"):
        Translator(silent, tokenizer, language="fr")
    with pytest.raises(ValueError, match="alignments need attention weights, and the model returns none"):
        Translator(silent, tokenizer).translate(["one"], alignments=True, max_new_tokens=2)
