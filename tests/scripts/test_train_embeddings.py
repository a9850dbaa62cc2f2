"""Embeddings from pairs: each loss, encoders and decoders, adapters, the scores by hand; and what is refused."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, GPT2Config

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.retrieval.scores import Retrieval
from trine.scripts import train_embeddings
from trine.scripts.arguments.embeddings import (
    LOSSES,
    EmbeddingArguments,
    EmbeddingTrainingArguments,
)
from trine.scripts.arguments.lora import OptionalLoraArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.train_embeddings import is_decoder


NAMES = ["red", "green", "blue", "white", "black", "brown"]
THINGS = ["house", "horse", "river", "stone", "bird", "lamp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, a pretrained encoder and a pretrained decoder with heads, and a run on the encoder."""
    folder = tmp_path_factory.mktemp("embeddings")
    pairs = [{"ask": f"{a} {b}", "text": f"a {b} that is {a}", "not": f"no {b}"} for a in NAMES for b in THINGS]
    write(folder / "pairs.jsonl", pairs)
    write(folder / "other.jsonl", [{"ask": "a boat", "text": "no house"}])
    texts = [" ".join(pair.values()) for pair in pairs]
    torch.manual_seed(0)
    for name, train, model_class in (
        ("encoder", train_wordpiece, TrineForMaskedLM),
        ("decoder", train_byte_level_bpe, TrineForCausalLM),
    ):
        tokenizer = train(texts, 300, show_progress=False)
        sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        model_class(TrineConfig(**sizes, is_causal=name == "decoder")).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    assert run(folder, "encoder", "straight", "--matryoshka_dims", "32", "16", "8") == 0
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(folder, model, output, *argv):
    words = ["--model", str(folder / model), "--files", str(folder / "pairs.jsonl"), "--max_length", "32"]
    words += ["--anchor_field", "ask", "--positive_field", "text", "--validation_fraction", "0.2"]
    words += ["--max_steps", "4", "--save_steps", "2", "--eval_steps", "2", "--per_device_train_batch_size", "8"]
    words += ["--learning_rate", "1e-2", "--use_cpu", "--disable_tqdm", "true"]
    return train_embeddings.main([*words, "--output_dir", str(folder / output), *argv])


def metrics_of(folder, output):
    return json.loads((folder / output / "metrics.json").read_text())


def weights_of(folder, output):
    return load_file(folder / output / "model.safetensors")


def test_what_a_run_leaves(folder):
    output, metrics = folder / "straight", metrics_of(folder, "straight")
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert set(metrics["scores"]) == {"bm25", "before", "after", "after_32", "after_16", "after_8", "after - bm25"}
    assert (metrics["steps"], metrics["training_pairs"], metrics["validation_pairs"]) == (4, 29, 7)
    model = SentenceTransformer(str(output))
    words = ["--model", "m", "--files", str(folder / "pairs.jsonl"), "--validation_fraction", "0.2"]
    words += ["--anchor_field", "ask", "--positive_field", "text"]
    (arguments,) = parse_arguments([EmbeddingArguments], words, command="test", description=None)
    retrieval = Retrieval.from_pairs(train_embeddings.read_pairs(arguments, seed=42)[2])
    for size, name in ((None, "after"), (8, "after_8")):
        evaluator = retrieval.evaluator(truncate_dim=size)
        found = {key.removeprefix("cosine_"): value for key, value in evaluator(model).items()}
        assert metrics["scores"][name] == pytest.approx({key: found[key] for key in ("ndcg@10", "accuracy@1")})
    before = retrieval.score(SentenceTransformer(str(folder / "encoder")))
    assert before["ndcg@10"].mean() == pytest.approx(metrics["scores"]["before"]["ndcg@10"])
    above = metrics["scores"]["after"]["ndcg@10"] - metrics["scores"]["bm25"]["ndcg@10"]
    low, high = metrics["intervals"]["after - bm25"]["ndcg@10"]
    assert metrics["scores"]["after - bm25"]["ndcg@10"] == pytest.approx(above) and low <= above <= high
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"| after | {metrics['scores']['after']['ndcg@10']:.4f} | " in card.split("## Scores")[1]
    assert model[1].pooling_mode == "mean" and model.max_seq_length == 32
    assert model.encode(["red house", "a lamp"]).shape == (2, 32)
    trained, base = model[0].model.state_dict(), AutoModel.from_pretrained(folder / "encoder").state_dict()
    assert all(not torch.equal(trained[name], base[name]) for name in base if name.endswith("q_proj.weight"))


def test_the_base_is_loaded_as_it_was_saved(folder):
    words = ["--model", str(folder / "encoder"), "--files", "f", "--max_length", "32"]
    (arguments,) = parse_arguments([EmbeddingArguments], words, command="test", description=None)
    loaded = train_embeddings.load_model(arguments)[0].model.state_dict()
    saved = weights_of(folder, "encoder")
    assert len(loaded) > 10
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, saved[f"model.{name}"], rtol=0, atol=0)


def test_weights_that_another_model_lacks_are_an_error(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40}
    BertModel(BertConfig(vocab_size=61, **sizes)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    changed = {name: tensor for name, tensor in weights.items() if "attention.output" not in name}
    save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"model='mine' lacks 4 of the weights of BertModel, such as \['encoder.layer.0"
    ):
        train_embeddings.check_weights("mine", AutoModel.from_pretrained(tmp_path), {})


@pytest.mark.parametrize("rename", [lambda name: name.replace("model.", "trunk."), lambda name: None])
def test_weights_that_are_missing_are_an_error(folder, tmp_path, rename):
    AutoModel.from_pretrained(folder / "encoder")  # as it is, it loads
    for file in (folder / "encoder").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    changed = {rename(name) if "layers.1" in name else name: tensor for name, tensor in weights.items()}
    changed.pop(None, None)
    save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match=r"lacks the tensor 'layers.1.input_layernorm.weight' and 8 more"):
        run(folder, tmp_path, "unused", "--output_dir", str(tmp_path / "output"))
    assert run(folder, tmp_path, "unused", "--output_dir", str(tmp_path / "output"), "--random_weights") == 0


def test_the_cached_loss_trains_the_same_model(folder):
    plain = ["--validation_fraction", "0.2", "--save_strategy", "no", "--eval_strategy", "no", "--bm25", "false"]
    assert run(folder, "encoder", "plain", *plain) == 0
    cached = ["--loss", "cached_multiple_negatives_ranking", "--mini_batch_size", "3"]
    assert run(folder, "encoder", "cached", *plain, *cached) == 0
    first, second = weights_of(folder, "plain"), weights_of(folder, "cached")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-3)
    assert metrics_of(folder, "plain")["scores"].keys() == {"before", "after"}


def test_resume_is_exact(folder, capsys):
    constant = ["--lr_scheduler_type", "constant", "--bm25", "false"]
    assert run(folder, "encoder", "stopped", *constant, "--max_steps", "2") == 0
    assert run(folder, "encoder", "stopped", *constant, "--resume_from_checkpoint", "last") == 0
    assert run(folder, "encoder", "whole", *constant) == 0
    first, second = weights_of(folder, "stopped"), weights_of(folder, "whole")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    number = r"[01]\.\d{4}"
    row = rf" +after +{number} \({number} to {number}\) "
    assert re.search(r"7 held-out pairs, .*\n +ndcg@10 +accuracy@1\n +before  .*\n" + row, capsys.readouterr().out)


def test_a_decoder_with_adapters_and_negatives(folder):
    words = ["--lora", "--rank", "2", "--merge", "--negative_field", "not", "--learning_rate", "5e-2"]
    assert run(folder, "decoder", "lora", *words) == 0
    metrics = metrics_of(folder, "lora")
    adapters = load_file(folder / "lora" / "adapter" / "adapter_model.safetensors")
    assert metrics["trained_parameters"] == sum(tensor.numel() for tensor in adapters.values())
    base = AutoModel.from_pretrained(folder / "decoder")
    assert metrics["parameters"] == base.num_parameters()
    assert {name.split(".")[-3] for name in adapters} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    adapted, merged = SentenceTransformer(str(folder / "lora" / "adapter")), SentenceTransformer(str(folder / "lora"))
    assert adapted[1].pooling_mode == merged[1].pooling_mode == "lasttoken"
    texts = ["red house", "a bird that is blue"]
    torch.testing.assert_close(merged.encode(texts), adapted.encode(texts))
    assert abs(adapted.encode(texts) - embed_last(base, adapted.tokenizer, texts)).max() > 1e-2
    plain = embed_last(merged[0].model, merged.tokenizer, texts)
    torch.testing.assert_close(merged.encode(texts), plain)


def embed_last(model, tokenizer, texts):
    """The hidden state of the last token of each text, one text at a time."""
    states = [model.eval()(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1] for text in texts]
    return torch.stack(states).detach().numpy()


def test_a_trained_model_is_trained_further_with_its_own_pooling(folder):
    assert run(folder, "encoder", "cls", "--pooling", "cls", "--bm25", "false") == 0
    assert run(folder, "cls", "further", "--bm25", "false") == 0
    assert SentenceTransformer(str(folder / "further"))[1].pooling_mode == "cls"
    further, first = metrics_of(folder, "further")["scores"], metrics_of(folder, "cls")["scores"]
    assert further["before"] == pytest.approx(first["after"])


def test_scores_by_hand(monkeypatch):
    """Three queries, of which one finds its text first, one second, and one only third."""
    pairs = [("red house", "a red house"), ("red", "red paint"), ("old horse", "an old horse"), ("red", "so red")]
    retrieval = Retrieval.from_pairs(pairs)
    assert list(retrieval.queries.values()) == ["red house", "red", "old horse"]
    assert list(retrieval.corpus.values()) == ["a red house", "red paint", "an old horse", "so red"]
    assert retrieval.relevant == {"q0": {"d0"}, "q1": {"d1", "d3"}, "q2": {"d2"}}

    directions = {
        **{"red house": 0, "red": 10, "old horse": 90},  # degrees; the nearer, the more alike
        **{"a red house": 5, "red paint": 30, "an old horse": 60, "so red": 80},
    }

    class Compass(SentenceTransformer):
        def encode(self, texts, **keywords):
            angles = torch.tensor([math.radians(directions[text]) for text in texts])
            return torch.stack([angles.cos(), angles.sin()], 1)

        encode_query = encode_document = encode

    model = Compass(modules=[torch.nn.Identity()])
    second = 1 / math.log2(3)
    expected = [1, (second + 1 / math.log2(5)) / (1 + second), second]  # red: its texts are second and fourth
    found = retrieval.score(model)
    assert found["ndcg@10"] == pytest.approx(expected) and [*found["accuracy@1"]] == [1, 0, 0]


def test_bm25_by_hand():
    pairs = [("red house", "the red red house"), ("old horse", "an old house"), ("snow", "white stones")]
    retrieval = Retrieval.from_pairs([*pairs, ("house", "old horse on an old hill")])
    documents = [text.lower().split() for text in retrieval.corpus.values()]
    mean = sum(map(len, documents)) / len(documents)

    def score(query, words):
        total = 0.0
        for word in query.split():
            frequency = sum(word in document for document in documents)
            inverse = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            count = words.count(word)
            total += inverse * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        return total

    expected = []
    for number, query in enumerate(retrieval.queries.values()):
        scores = [score(query, words) for words in documents]
        right = scores[number]
        rank = sum(value > right for value in scores)
        expected.append(1 / math.log2(rank + 2) if right else 0.0)
    assert 0.0 in expected and 1.0 in expected and len(set(expected)) == 3
    found = retrieval.score_bm25()
    assert found["ndcg@10"] == pytest.approx(expected)
    assert [*found["accuracy@1"]] == [float(value == 1) for value in expected]


def test_a_text_that_is_held_out_is_in_no_training_pair(folder, tmp_path):
    write(tmp_path / "pairs.jsonl", [{"anchor": str(n % 10), "positive": str(100 + n % 7)} for n in range(140)])
    words = ["--model", "m", "--files", str(tmp_path / "pairs.jsonl"), "--validation_fraction", "0.02"]
    (arguments,) = parse_arguments([EmbeddingArguments], words, command="test", description=None)
    train, groups, validation, counts = train_embeddings.read_pairs(arguments, seed=0)
    assert not groups
    hidden = {text for pair in validation for text in pair}
    assert len(validation) == counts["validation_pairs"] == 3 and counts["training_pairs"] == len(train) > 0
    assert not hidden & {text for pair in train for text in pair}


def test_texts_without_pairs_find_themselves(folder, tmp_path):
    write(tmp_path / "texts.jsonl", [{"body": f"the {a} {b} is near the old {b}"} for a in NAMES for b in THINGS])
    write(tmp_path / "held.jsonl", [{"ask": "red house", "text": "the red house is near the old house"}])
    words = ["--files", str(tmp_path / "texts.jsonl"), "--validation_files", str(tmp_path / "held.jsonl")]
    words += ["--text_field", "body", "--bm25", "false", "--max_steps", "2"]
    with pytest.raises(SystemExit, match="views='dropout' needs dropout, and model=.* has {'attention_dropout': 0.0"):
        run(folder, "encoder", "unused", *words, "--views", "dropout", "--output_dir", str(tmp_path / "no"))
    model = AutoModel.from_pretrained(folder / "encoder", hidden_dropout=0.1)
    for part in (model, AutoTokenizer.from_pretrained(folder / "encoder")):
        part.save_pretrained(tmp_path / "with_dropout")
    found = {}
    for views in ("crops", "dropout"):
        assert run(tmp_path, "with_dropout", views, *words, "--views", views) == 0
        found[views] = weights_of(tmp_path, views)["layers.0.self_attn.q_proj.weight"]
        assert metrics_of(tmp_path, views)["training_pairs"] == 35  # the text that is held out is not trained on
    assert not torch.equal(found["crops"], found["dropout"])


def test_groups_come_into_batches_together(folder):
    assert run(folder, "encoder", "grouped", "--group_field", "not", "--group_size", "3", "--bm25", "false") == 0
    assert metrics_of(folder, "grouped")["training_pairs"] == 29


def test_hard_negatives_are_columns_of_the_data(folder, tmp_path, monkeypatch):
    seen, make = [], train_embeddings.make_dataset
    monkeypatch.setattr(train_embeddings, "make_dataset", lambda pairs: seen.append(make(pairs)) or seen[-1])
    words = ["--hard_negatives", "2", "--cache_dir", str(tmp_path), "--negative_field", "not", "--max_steps", "1"]
    assert run(folder, "encoder", "mined", *words, "--bm25", "false", "--miner", str(folder / "encoder")) == 0
    columns = ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert [each.column_names for each in seen] == [columns, columns[:3]]
    held_out = {*seen[1]["positive"]}
    for row in seen[0]:
        assert row["negative_1"] == f"no {row['anchor'].split()[1]}"
        assert len({row["positive"], row["negative_2"], row["negative_3"]} - held_out) == 3
    assert metrics_of(folder, "mined")["miner"] == str(folder / "encoder")


def test_decoders_are_told_from_encoders():
    configs = [TrineConfig(), TrineConfig(is_causal=False), BertConfig(), GPT2Config()]
    assert [is_decoder(config) for config in configs] == [True, False, False, True]
    assert not is_decoder(TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES))


def test_a_model_of_the_library_without_its_pooler(folder, tmp_path):
    tokenizer = train_wordpiece(["a text"], 300, show_progress=False)
    config = BertConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert run(folder, tmp_path, "bert", "--bm25", "false", "--max_steps", "1") == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "absent"], "model='absent' cannot be read"),
        (["--files", "absent.jsonl"], "The file or folder 'absent.jsonl' does not exist."),
        (["--anchor_field", "query"], "the field 'query' is missing from ['ask', 'not', 'text']"),
        (["--matryoshka_dims", "64"], "matryoshka_dims=[64] are not all from 1 to the model's 32."),
        (["--hard_negatives", "99"], "hard_negatives=99 are more than the 28 texts that are not right for an anchor."),
        (
            ["--text_field", "ask", "--validation_files", "{folder}/other.jsonl", "--hard_negatives", "1"],
            "hard_negatives=1 belong to pairs; with text_field='ask' what is found first may say the same.",
        ),
        (["--lora", "--targets", "experts"], "parts=['experts'] are not all in TrineModel"),
        (["--output_dir", "{folder}/straight"], "holds checkpoints of an earlier run"),
        (["--validation_files", "{folder}/pairs.jsonl"], "leave too little: {'training_pairs': 0"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    words = ["--output_dir", str(tmp_path), *(text.replace("{folder}", str(folder)) for text in argv)]
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, "encoder", "unused", *words)


def test_without_bm25s(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_embeddings, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="bm25=True needs bm25s"):
        run(folder, "encoder", "unused", "--output_dir", str(tmp_path))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loss", "triplet"], f"loss='triplet' is not one of {list(LOSSES)}"),
        (["--pooling", "last"], "pooling='last' is not one of"),
        (["--merge"], "merge=True has nothing to merge without lora=True."),
        (["--views", "halves"], "views='halves' is not one of ['dropout', 'crops']"),
        (["--text_field", "text"], "text_field='text' needs validation_files with pairs"),
        (["--hard_negatives", "-1"], "hard_negatives=-1 must be at least 0."),
        (["--text_field", "t", "--validation_files", "v", "--negative_field", "n"], "negative_field='n' belongs to"),
        (["--scale", "0"], "scale=0.0 must be a finite number above 0."),
        (["--scale", "nan"], "scale=nan must be a finite number above 0."),
        (["--mini_batch_size", "0"], "mini_batch_size=0 must be at least 1."),
        (["--group_size", "1"], "group_size=1 must be at least 2."),
    ],
)
def test_values_are_checked_before_anything_is_read(folder, capsys, argv, message):
    with pytest.raises(SystemExit):
        run(folder, "absent", "unused", *argv)
    assert message in capsys.readouterr().err


def test_the_recipe_and_help(tmp_path, capsys):
    types = [EmbeddingArguments, OptionalLoraArguments, EmbeddingTrainingArguments]
    words = ["--recipe", "train-embeddings", "--model", "m", "--files", "f", "--output_dir", str(tmp_path)]
    arguments, lora, training = parse_arguments(types, words, command="test", description=None)
    assert arguments.matryoshka_dims == [256, 128, 64] and arguments.loss in LOSSES and not lora.lora
    assert training.batch_sampler.value == "no_duplicates" and training.per_device_train_batch_size == 512
    with pytest.raises(SystemExit) as stop:
        train_embeddings.main(["--help"])
    assert stop.value.code == 0 and "--matryoshka_dims" in capsys.readouterr().out
