"""A classifier from records: classes, sets and values, all shapes of models, resumed, scored, and what is refused."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from transformers import AutoModelForSequenceClassification, Trainer, pipeline, set_seed

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForPreTraining,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.scripts import finetune_classifier
from trine.training.finetuning import FinetuneTrainer


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QUICK = {"export_code": False}  # saving is what takes longest
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
RECORDS = [
    {"text": f"{number} {mood} thing", "mood": mood, "tags": tags, "score": score, "second": f"{mood} {number}"}
    for number in NUMBERS
    for mood, tags, score in (("good", ["fine", "nice"], 1.5), ("bad", ["poor"], -1), ("odd", [], 0))
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)  # it is made before the seed of its first test is set
    texts = [record["text"] for record in RECORDS]
    wordpiece = train_wordpiece(texts, 300, show_progress=False)
    bpe = train_byte_level_bpe(texts, 300, show_progress=False)
    encoder = TrineConfig(
        **SMALL, **QUICK, is_causal=False, type_vocab_size=2, vocab_size=len(wordpiece), pad_token_id=0
    )
    decoder = TrineConfig(**SMALL, **QUICK, mlp_layer_types="sparse", num_experts=2, vocab_size=len(bpe))
    both = TrineSeq2SeqConfig.from_preset(
        "transformer-base", **SMALL, **QUICK, vocab_size=len(wordpiece), pad_token_id=0
    )
    parts = {
        "encoder": (wordpiece, TrineForPreTraining(encoder)),
        "decoder": (bpe, TrineForCausalLM(decoder)),
        "both": (wordpiece, TrineForConditionalGeneration(both)),
    }
    assert wordpiece.pad_token_id == 0
    for name, (tokenizer, model) in parts.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write(folder / "train.jsonl", RECORDS[:24])
    write(folder / "test.jsonl", RECORDS[24:])
    return folder


def run(folder, output, *argv):
    words = ["--model", str(folder / "encoder"), "--files", str(folder / "train.jsonl"), "--label_field", "mood"]
    words += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--max_length", "16", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--output_dir", str(output), "--validation_fraction", "0.25"]
    return finetune_classifier.main([*words, *argv])


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_a_run_learns_and_its_scores_are_those_of_the_pipeline(folder, tmp_path, capsys):
    words = ["--validation_files", str(folder / "test.jsonl"), "--max_steps", "60", "--learning_rate", "1e-2"]
    assert run(folder, tmp_path, *words) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["labels"] == ["bad", "good", "odd"] and metrics["problem_type"] == "single_label_classification"
    assert (metrics["training_records"], metrics["validation_records"], metrics["bad_records"]) == (24, 6, 0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.label2id == {"bad": 0, "good": 1, "odd": 2} and model.config.use_cache is True
    assert metrics["parameters"] == model.num_parameters()
    classify = pipeline("text-classification", str(tmp_path))
    predicted = [answer["label"] for answer in classify([record["text"] for record in RECORDS[24:]])]
    expected = [record["mood"] for record in RECORDS[24:]]
    scores = metrics["scores"]["model"]
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(expected, predicted)) and (
        scores["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(expected, predicted, average="macro"))
    )
    assert scores["accuracy"] == 1.0
    # each class is a third; F1 of the one that is always said: 2*2/(2+6)
    assert metrics["scores"]["most frequent"] == pytest.approx({"accuracy": 1 / 3, "macro_f1": 0.5 / 3})
    for picture in ("loss.png", "confusion.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "problem_type=single_label_classification (found from the labels), outputs: bad, good, odd" in printed
    assert "Batches without padding." in printed and re.search(r"most frequent +0\.3333", printed)


def test_sets_of_labels_with_a_decoder(folder, tmp_path, capsys):
    words = ["--model", str(folder / "decoder"), "--label_field", "tags", "--validation_files"]
    assert run(folder, tmp_path, *words, str(folder / "test.jsonl")) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["problem_type"] == "multi_label_classification" and metrics["labels"] == ["fine", "nice", "poor"]
    # all three sets are equally frequent; whichever is said is right in a third
    assert metrics["scores"]["most frequent"]["accuracy"] == pytest.approx(1 / 3)
    assert "Batches with padding." in capsys.readouterr().out
    classify = pipeline("text-classification", str(tmp_path), top_k=None)
    answers = classify([record["text"] for record in RECORDS[24:]])
    chosen = [{answer["label"] for answer in answer if answer["score"] > 0.5} for answer in answers]
    right = np.mean([names == {*record["tags"]} for names, record in zip(chosen, RECORDS[24:], strict=True)])
    assert metrics["scores"]["model"]["accuracy"] == pytest.approx(right)


def test_values_of_pairs_with_an_encoder_decoder(folder, tmp_path):
    words = ["--model", str(folder / "both"), "--label_field", "score", "--second_text_field", "second"]
    words += ["--metric_for_best_model", "rmse", "--validation_files", str(folder / "test.jsonl")]
    assert run(folder, tmp_path, *words) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["problem_type"] == "regression" and metrics["labels"] == ["score"]
    values = np.array([1.5, -1, 0])  # in equal numbers on both sides
    baseline = metrics["scores"]["mean"]
    assert baseline == pytest.approx({"rmse": values.std(), "mae": np.abs(values - values.mean()).mean()})
    rate = pipeline("text-classification", str(tmp_path))
    pairs = [{"text": record["text"], "text_pair": record["second"]} for record in RECORDS[24:]]
    errors = [rate(pair)["score"] - record["score"] for pair, record in zip(pairs, RECORDS[24:], strict=True)]
    assert metrics["scores"]["model"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    assert metrics["scores"]["model"]["loss"] == pytest.approx(np.mean(np.square(errors)), rel=1e-4)


def test_interrupted_and_resumed_it_ends_as_if_it_had_not_been(folder, tmp_path, monkeypatch):
    words = ["--save_strategy", "steps", "--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "3"]
    words += ["--max_steps", "6", "--learning_rate", "1e-3"]
    assert run(folder, tmp_path / "straight", *words) == 0
    step = Trainer.training_step

    def interrupt(self, *args, **kwargs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupt)
        assert run(folder, tmp_path / "resumed", *words) == 130
    assert (tmp_path / "resumed" / "checkpoint-2").is_dir()
    assert run(folder, tmp_path / "resumed", *words, "--resume_from_checkpoint", "last") == 0
    straight, resumed = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "checkpoint-6").state_dict()
        for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    other = write(tmp_path / "other.jsonl", [{**record, "mood": record["mood"][:2]} for record in RECORDS])
    message = "has the labels bad, good, odd; the files have ba, go, od."
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, tmp_path / "resumed", "--files", str(other), "--resume_from_checkpoint", "last")


def test_early_stopping(folder, tmp_path):
    words = ["--max_steps", "-1", "--num_train_epochs", "9", "--learning_rate", "0", "--early_stopping_patience", "2"]
    assert run(folder, tmp_path, *words) == 0
    assert read_metrics(tmp_path)["epochs"] == 3  # the first is the best, and two are not better
    assert read_metrics(tmp_path)["best_checkpoint"] == "checkpoint-5"  # 18 records in fours


def test_packed_and_padded_batches_teach_the_same(folder, tmp_path, monkeypatch):
    ends = {}
    for name in ("packed", "padded"):
        set_seed(0)
        monkeypatch.setattr(FinetuneTrainer, "get_train_dataloader", loaders[name])
        assert run(folder, tmp_path / name, "--max_steps", "4", "--learning_rate", "1e-3") == 0
        ends[name] = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).state_dict()
    for name, weight in ends["packed"].items():
        torch.testing.assert_close(weight, ends["padded"][name], atol=2e-5, rtol=1e-4)


loaders = {"packed": FinetuneTrainer.get_train_dataloader, "padded": Trainer.get_train_dataloader}


def test_bad_records_are_counted(folder, tmp_path):
    bad = [{"text": "", "mood": "bad"}, {"text": "a"}, {"text": "a", "mood": None}, {"text": 3, "mood": "bad"}]
    path = write(tmp_path / "bad.jsonl", [*RECORDS, *bad])
    message = re.escape("record 31: the field 'text' is empty") + "(.|\n)*record 32: .*'mood'(.|\n)*--skip_bad_records"
    with pytest.raises(SystemExit, match=message):
        run(folder, tmp_path / "out", "--files", str(path))
    with pytest.warns(UserWarning, match="4 records cannot be used"):
        assert run(folder, tmp_path / "out", "--files", str(path), "--skip_bad_records") == 0
    assert read_metrics(tmp_path / "out")["bad_records"] == 4


def test_numbers_in_csv_are_values_if_told(folder, tmp_path):
    path = tmp_path / "values.csv"
    path.write_text("text,mood\n" + "".join(f"{number},{index}.5\n" for index, number in enumerate(NUMBERS)))
    assert run(folder, tmp_path / "out", "--files", str(path), "--problem_type", "regression") == 0
    assert read_metrics(tmp_path / "out")["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--files", "absent.jsonl"], "absent.jsonl"),
        (["--text_field", "txet"], "the field 'txet' is missing from ['mood'"),
        (["--label_field", "lable"], "the field 'lable' is missing from ['mood'"),
        (["--label_field", "tags", "--problem_type", "regression"], "the field 'tags' holds a list"),
        (["--problem_type", "regression"], "the label 'good' is not a finite number"),
        (["--validation_files", "{folder}/other.jsonl"], "validation_files have the labels new, which the training"),
        (["--files", "{folder}/one.jsonl"], "label_field='mood' has the labels ['good']; two at least are needed."),
        (["--metric_for_best_model", "f1"], "Unknown metric_for_best_model 'f1'"),
        (["--max_length", "100000"], "max_length=100000 is above max_position_embeddings=2048."),
        (["--model", "{folder}/nothing"], "nothing"),
        (["--output_dir", "{folder}/used"], "holds checkpoints of an earlier run"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    write(folder / "other.jsonl", [{"text": "a", "mood": "new"}])
    write(folder / "one.jsonl", [record for record in RECORDS if record["mood"] == "good"])
    used = folder / "used" / "checkpoint-1"
    used.mkdir(parents=True, exist_ok=True)
    (used / "trainer_state.json").write_text("{}", encoding="utf-8")  # what is written last: it was finished
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, tmp_path, *(text.format(folder=folder) for text in argv))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--problem_type", "regresion"], "Unknown problem_type 'regresion'. Did you mean 'regression'?"),
        (["--validation_fraction", "1"], "validation_fraction=1.0 must be between 0 and 1."),
        (["--max_length", "3"], "max_length=3 must be at least 4."),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor=0.1 must be 0 for classifiers."),
        (["--early_stopping_patience", "-1"], "early_stopping_patience=-1 must be at least 0."),
    ],
)
def test_arguments_are_checked_before_anything_is_read(folder, tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit):
        run(folder, tmp_path, *argv)
    assert message in capsys.readouterr().err
