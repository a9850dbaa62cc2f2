"""`trine lift SOURCE TARGET --to KIND`."""

import json
import re
import shutil

import pytest
import torch
from support.tiny import GPT2, random_ids, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, LlamaConfig

from trine import TrineForMaskedLM, TrineModel, train_wordpiece
from trine.scripts import lift


TEXTS = ["a short text", "a text that is longer than any window of the model, by so many words that it is cut"]
NUMBER = r"(\d\S*)"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A decoder with a tokenizer, an encoder, and the config of another library's model."""
    folder = tmp_path_factory.mktemp("sources")
    tokenizer = train_wordpiece(TEXTS, vocab_size=200, show_progress=False)
    tokenizer.save_pretrained(folder / "decoder")
    fields = {"vocab_size": 200, "pad_token_id": 0, "export_code": False, "scale": 1.5, "dtype": torch.float32}
    tiny_model(**fields).save_pretrained(folder / "decoder")
    encoder = tiny_model(TrineForMaskedLM, is_causal=False, **GPT2, **fields)
    encoder.save_pretrained(folder / "encoder")
    LlamaConfig().save_pretrained(folder / "llama")
    return folder


def run(sources, target, source, *words) -> list[str]:
    lift.main([str(sources / source), str(target), *words])
    return [str(folder) for folder in (sources / source, target)]


@pytest.mark.parametrize("ending", [".jsonl", ".txt", None])
def test_it_writes_a_checkpoint_and_tells_the_change(sources, tmp_path, capsys, ending):
    words = ["--to", "simplicial", "--layers", "1", "--simplicial-window", "6"]
    name = "random tokens"
    if ending is not None:
        name = str(tmp_path / f"sample{ending}")
        lines = TEXTS if ending == ".txt" else [json.dumps({"text": text}) for text in TEXTS]
        (tmp_path / f"sample{ending}").write_text("\n".join(lines), encoding="utf-8")
        words += ["--sample_file", name]
    source, target = run(sources, tmp_path / "target", "decoder", *words)
    written, inside, beyond = capsys.readouterr().out.splitlines()
    assert written == f"{source} -> {target}"
    pattern = rf"Largest change of outputs on {re.escape(name)}, texts of up to 6 tokens: {NUMBER}"
    assert float(re.fullmatch(pattern, inside)[1]) <= 1e-5
    assert float(re.fullmatch(rf"Where the function changes, texts of 7 to 12 tokens: {NUMBER}", beyond)[1]) > 1e-4
    lifted, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (target, source))
    assert lifted.config.attention_types == ["full", "simplicial"]
    ids = AutoTokenizer.from_pretrained(target)(TEXTS[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(lifted(ids[:, :6]).logits, model(ids[:, :6]).logits, rtol=0, atol=1e-5)


def test_an_encoder_and_a_decoder_become_one(sources, tmp_path, capsys):
    words = ["--to", "encoder_decoder", "--decoder", str(sources / "decoder"), "--eos_token_id", "2"]
    _, target = run(sources, tmp_path / "target", "encoder", *words)
    _, states, logits = capsys.readouterr().out.splitlines()
    assert states.endswith("texts of up to 96 tokens: 0")
    assert float(re.fullmatch(rf"Of the given decoder's logits, on random tokens: {NUMBER}", logits)[1]) <= 1e-5
    ids = random_ids(1, 9)
    model = TrineModel.from_pretrained(sources / "encoder", add_pooling_layer=False)
    lifted = AutoModelForSeq2SeqLM.from_pretrained(target)
    assert torch.equal(lifted.get_encoder()(ids).last_hidden_state, model(ids).last_hidden_state)


def test_a_sentence_encoder_becomes_one_with_the_tokens_of_its_tokenizer(sources, tmp_path, capsys):
    """Its pooling stays behind: sentence-transformers would take the encoder-decoder for a sentence encoder."""
    tokenizer = AutoTokenizer.from_pretrained(sources / "decoder")
    folder = tmp_path / "sentences"
    shutil.copytree(sources / "encoder", folder)
    tokenizer.save_pretrained(folder)
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    (folder / "modules.json").write_text(json.dumps([pooling]), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    words = ["--to", "encoder_decoder", "--encoder_layers", "1", "--decoder_layers_from", "1", "0", "1"]
    lift.main([str(folder), str(tmp_path / "target"), *words])
    assert capsys.readouterr().out.endswith("texts of up to 96 tokens: 0\n")
    names = {path.name for path in (tmp_path / "target").iterdir()}
    assert "tokenizer.json" in names
    assert not names & {"modules.json", "1_Pooling", "sentence_bert_config.json", "config_sentence_transformers.json"}
    lifted = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "target")
    ids = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id]
    kept = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    for settings in (lifted.config, lifted.generation_config):
        assert [getattr(settings, name) for name in kept] == ids
    encoder = AutoModelForMaskedLM.from_pretrained(sources / "encoder").model
    for layer, source in zip(lifted.model.decoder.layers, (1, 0, 1), strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, encoder.layers[source].mlp.up_proj.weight)


def test_a_recipe_may_name_the_lift_and_the_seed_draws_its_router(sources, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("to: sparse\nnum_experts: 3\nrouter_noise: 0.5\nlayers: [0, 1]\n", encoding="utf-8")
    gates = []
    for number, seed in enumerate("112"):
        run(sources, tmp_path / f"target{number}", "decoder", "--recipe", str(recipe), "--seed", seed)
        layers = AutoModelForCausalLM.from_pretrained(tmp_path / f"target{number}").model.layers
        gates.append(layers[1].mlp.gate.weight)
    assert torch.equal(gates[0], gates[1]) and not torch.equal(gates[0], gates[2])
    assert "Where the function changes" not in capsys.readouterr().out


def test_waves_that_are_exact_nowhere_say_so(sources, tmp_path, capsys):
    words = ["--to", "longer", "--max_position_embeddings", "192"]
    run(sources, tmp_path / "linear", "decoder", *words, "--rope_type", "linear")
    assert capsys.readouterr().out.endswith("The function changes at any length.\n")
    run(sources, tmp_path / "dynamic", "decoder", *words)
    assert re.search("up to 96 tokens: 0\n.*, texts of 97 to 192 tokens: .*[1-9]", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["llama", "--to", "sparse"],
            "trine: model_type='llama' of .* make a Trine checkpoint first: `trine convert ",
        ),
        (["decoder", "--to", "spars"], r"trine: to='spars' is not one of \[.*Did you mean 'sparse'"),
        (
            ["decoder", "--to", "sliding", "--num-experts", "3"],
            "trine: The lift 'sliding' has no option 'num_experts'",
        ),
        (["decoder", "--to", "sliding", "--layers", "2"], r"trine: layers\[0\]=2 is no layer of the model"),
        (
            ["encoder", "--to", "encoder_decoder"],
            "trine: eos_token_id=None: neither config nor tokenizer names such a token",
        ),
        (["nowhere", "--to", "sliding"], "trine: source='.*nowhere' is no folder"),
        (["decoder", "--to", "sliding", "--sample_file", "none.txt"], "trine: .*'none.txt' does not exist"),
        (["decoder", "--to", "sliding", "--sample_file", "EMPTY"], "trine: sample_file='.*' has no text"),
        (["decoder"], "2"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(sources, tmp_path, words, message):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        run(sources, tmp_path / "target", *(str(empty) if word == "EMPTY" else word for word in words))
    assert [*tmp_path.iterdir()] == [empty]


def test_help_tells_the_kinds_and_the_options_of_each(capsys):
    for words, expected in ((["--help"], "encoder_decoder"), (["--to", "sparse", "--help"], "--router_noise")):
        with pytest.raises(SystemExit, match="0"):
            lift.main(words)
        assert expected in capsys.readouterr().out
