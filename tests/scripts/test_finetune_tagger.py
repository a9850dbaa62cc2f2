"""A tagger from records of words and tags: trained, resumed, scored by entities, and what is refused."""

import json
import re
from typing import Any

import pytest
import seqeval.metrics
import seqeval.metrics.sequence_labeling
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM, train_byte_level_bpe, train_wordpiece
from trine.scripts import finetune_tagger
from trine.scripts.finetune_tagger import Tagged, count_entities, encode, f1_interval, measure, say_blanks
from trine.training import WordPieces


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PEOPLE = ["anna", "boris", "carla", "dieter", "emma", "fritz"]
PLACES = ["paris", "rome", "london", "oslo"]
RECORDS = [
    {
        "tokens": [person, "smith", "sees", place],
        "tags": ["B-PER", "I-PER", "O", "B-LOC"],
        "kinds": ["N", "N", "V", "N"],
    }
    for person in PEOPLE
    for place in PLACES
]
HELD_OUT = RECORDS[::6]  # of people and places that other records name, too: tags can be learned, not guessed only
LEARNED = [record for record in RECORDS if record not in HELD_OUT]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    texts = [" ".join(record["tokens"]) for record in RECORDS]
    torch.manual_seed(0)  # the seed of each test comes after this
    wordpiece = train_wordpiece(texts, 300, show_progress=False)
    bpe = train_byte_level_bpe(texts, 300, show_progress=False)
    shared = {**SMALL, "export_code": False}  # saving is what takes longest
    models = {
        "encoder": (wordpiece, TrineForMaskedLM(TrineConfig(**shared, is_causal=False, vocab_size=len(wordpiece)))),
        "decoder": (bpe, TrineForCausalLM(TrineConfig(**shared, vocab_size=len(bpe)))),
    }
    for name, (tokenizer, model) in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write(folder / "train.jsonl", LEARNED)
    write(folder / "test.jsonl", HELD_OUT)
    return folder


def run(folder, output, *argv):
    words = ["--model", str(folder / "encoder"), "--files", str(folder / "train.jsonl"), "--max_steps", "2"]
    words += ["--per_device_train_batch_size", "4", "--max_length", "32", "--use_cpu", "--disable_tqdm", "true"]
    return finetune_tagger.main([*words, "--output_dir", str(output), "--validation_fraction", "0.25", *argv])


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_a_run_learns_and_its_scores_are_those_of_its_model(folder, tmp_path, capsys):
    words = ["--validation_files", str(folder / "test.jsonl"), "--max_steps", "25", "--learning_rate", "1e-2"]
    assert run(folder, tmp_path, *words) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["labels"] == ["B-LOC", "B-PER", "I-PER", "O"]
    assert metrics["training_records"] == 20 and metrics["validation_words"] == 16
    model, tokenizer = (
        AutoModelForTokenClassification.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    predicted = []
    for record in HELD_OUT:
        inputs = tokenizer(record["tokens"], is_split_into_words=True, return_tensors="pt")
        tags = [model.config.id2label[tag] for tag in model(**inputs).logits[0].argmax(-1).tolist()]
        words = inputs.word_ids()
        predicted.append([tags[words.index(number)] for number in range(len(record["tokens"]))])
    expected = [record["tags"] for record in HELD_OUT]
    scores = metrics["scores"]["model"]
    assert scores["f1"] == pytest.approx(seqeval.metrics.f1_score(expected, predicted))
    assert scores["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(expected, predicted)) == 1.0
    # every tag is a quarter of the words; whichever is always said
    (constant,) = (row for name, row in metrics["scores"].items() if name != "model")
    assert constant["accuracy"] == 0.25
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "4 tags: B-LOC, B-PER, I-PER, O. Scored are entities (BIO)." in printed
    assert "Batches without padding." in printed
    find = pipeline("token-classification", str(tmp_path), aggregation_strategy="simple")
    found = [(entity["entity_group"], entity["word"]) for entity in find("emma smith sees oslo")]
    assert found == [("PER", "emma smith"), ("LOC", "oslo")]


def test_tags_that_are_no_entities_with_a_decoder(folder, tmp_path, capsys):
    words = ["--model", str(folder / "decoder"), "--tags_field", "kinds", "--metric_for_best_model", "macro_f1"]
    assert run(folder, tmp_path, *words) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["scores"]["model"].keys() == {"loss", "accuracy", "macro_f1"}
    assert metrics["scores"]["all N"] == pytest.approx({"accuracy": 0.75, "macro_f1": (2 * 3 / (3 + 4) + 0) / 2})
    assert "not all tags are O, B-... or I-..." in capsys.readouterr().out
    assert pipeline("token-classification", str(tmp_path))("anna smith")[0]["entity"] in ("N", "V")


def test_a_resumed_run_ends_as_one_that_was_not(folder, tmp_path):
    words = ["--learning_rate", "1e-3", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    words += ["--save_strategy", "steps", "--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "3"]
    assert run(folder, tmp_path / "straight", *words, "--max_steps", "6") == 0
    assert run(folder, tmp_path / "resumed", *words, "--max_steps", "3") == 0
    words += ["--resume_from_checkpoint", "last"]
    assert run(folder, tmp_path / "resumed", *words, "--max_steps", "6") == 0
    straight, resumed = (
        AutoModelForTokenClassification.from_pretrained(tmp_path / name / "checkpoint-6").state_dict()
        for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_scores_by_hand():
    names = ["B-X", "I-X", "O"]
    expected = [["B-X", "I-X", "O"], ["B-X", "O", "B-X"]]
    predicted = [["B-X", "I-X", "O"], ["B-X", "O", "I-X"]]  # the last entity begins with I-X, which counts
    assert measure(expected, predicted, names) == pytest.approx(
        {"accuracy": 5 / 6, "precision": 1, "recall": 1, "f1": 1}
    )
    predicted[0][1] = "O"  # cuts the first entity short: two of three are right, of three
    found = measure(expected, predicted, names)
    assert found == pytest.approx({"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    counts = count_entities(expected, predicted)
    assert counts.tolist() == [[0, 1, 1], [2, 2, 2]]
    assert f1_interval(counts) == (0, 1)  # of two records drawn anew both may be either
    nothing = measure(expected, [["O"] * 3] * 2, names)
    assert nothing == pytest.approx({"accuracy": 2 / 6, "precision": 0, "recall": 0, "f1": 0})


def spell(record):
    """The characters of a record's text with tags; a blank within an entity is of it."""
    tags = []
    for word, tag in zip(record["tokens"], record["tags"], strict=True):
        within = f"I-{tag[2:]}" if tag != "O" else tag
        tags += [*([within if tag[0] == "I" else "O"] if tags else []), tag, *[within] * (len(word) - 1)]
    return {"tokens": [*" ".join(record["tokens"])], "tags": tags}


def test_characters_are_read_as_their_text(folder, tmp_path, capsys):
    """The pipeline finds in the text what training was scored by."""
    spelled = [spell(record) for record in LEARNED]
    held_out = [spell(record) for record in HELD_OUT]
    held_out[0]["tags"][:2] = ["O", "B-PER"]  # "anna" is one piece, which can only be a whole entity
    words = ["--files", str(write(tmp_path / "train.jsonl", spelled)), "--delimiter", "", "--label_all_pieces"]
    words += ["--validation_files", str(write(tmp_path / "test.jsonl", held_out))]
    assert run(folder, tmp_path / "out", *words, "--max_steps", "25", "--learning_rate", "1e-2") == 0
    find: Any = pipeline("token-classification", str(tmp_path / "out"), aggregation_strategy="simple")
    assert {(each["entity_group"], each["word"]) for each in find("anna smith sees oslo")} == {
        ("PER", "anna smith"),
        ("LOC", "oslo"),
    }
    right = total = 0
    for record in held_out:
        found = {(each["entity_group"], each["start"], each["end"] - 1) for each in find("".join(record["tokens"]))}
        expected = {*seqeval.metrics.sequence_labeling.get_entities(record["tags"])}
        right, total = right + len(found & expected), total + len(found) + len(expected)
    metrics = read_metrics(tmp_path / "out")
    assert metrics["scores"]["model"]["f1"] == pytest.approx(2 * right / total) == 7 / 8
    assert metrics["scores"]["pieces' limit"]["f1"] == 7 / 8
    low, high = metrics["f1_interval"]
    assert low < 7 / 8 < high == 1
    assert f"F1 0.875, 95 % interval {low:.3f} to 1.000 (bootstrap over records)." in capsys.readouterr().out


def test_blanks_of_characters_are_told(capsys):
    say_blanks([WordPieces([], [1, 3, 5], {0, 2}), WordPieces([], [0], set())])
    assert capsys.readouterr().out == ""
    say_blanks([WordPieces([], [1, 3, 5], {0, 2, 4})])
    assert capsys.readouterr().out.startswith("3 of 3 words begin with a blank piece of their own")


def test_words_that_are_cut_off_have_no_label(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    example = Tagged(["anna"] * 9, ["B-PER"] * 9)
    (encoded,), _, cut = encode([example], ["B-PER", "I-PER", "O"], tokenizer, 4, label_all=True)
    assert cut == 1
    assert len(encoded["input_ids"]) == len(encoded["labels"]) == 4
    assert encoded["labels"][0] == encoded["labels"][-1] == -100


def test_bad_records_are_counted(folder, tmp_path):
    bad = [
        {"tokens": ["a", "b"], "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"], "tags": [3]},
        {"tokens": "a b", "tags": ["O", "O"]},
    ]
    path = write(tmp_path / "bad.jsonl", [*RECORDS, *bad])
    parts = [
        "record 25: the field 'tokens' has 2 items, 'tags' has 1",
        "record 26: the field 'tokens' is empty",
        "record 27: the field 'tags' holds 3, which is no text",
        "record 28: the field 'tokens' holds a str",
    ]
    with pytest.raises(SystemExit, match="(.|\n)*".join(map(re.escape, parts))):
        run(folder, tmp_path / "out", "--files", str(path))
    with pytest.warns(UserWarning, match="4 records cannot be used"):
        assert run(folder, tmp_path / "out", "--files", str(path), "--skip_bad_records", "--label_all_pieces") == 0
    assert read_metrics(tmp_path / "out")["bad_records"] == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--words_field", "words"], "the field 'words' is missing from ['kinds'"),
        (["--tags_field", "ner"], "the field 'ner' is missing from ['kinds'"),
        (["--validation_files", "{folder}/other.jsonl"], "validation_files have the tags B-NEW, which the training"),
        (["--files", "{folder}/one.jsonl"], "tags_field='tags' has the tags ['O']; two at least are needed."),
        (["--metric_for_best_model", "macro_f1"], "Unknown metric_for_best_model 'macro_f1'"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    write(folder / "other.jsonl", [{"tokens": ["a"], "tags": ["B-NEW"]}])
    write(folder / "one.jsonl", [{"tokens": ["a"], "tags": ["O"]}])
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, tmp_path, *(text.format(folder=folder) for text in argv))


def test_entities_need_seqeval(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_tagger, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="Entities are scored by seqeval, which is not installed: pip install 'trine"):
        run(folder, tmp_path)


def test_a_tokenizer_has_to_tell_words(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(type(AutoTokenizer.from_pretrained(folder / "encoder")), "is_fast", False)
    with pytest.raises(SystemExit, match="cannot tell words from pieces"):
        run(folder, tmp_path)
