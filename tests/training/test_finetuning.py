"""Fine-tuning without a command: splitting, loading, and the trainer."""

import numpy as np
import pytest
import torch
from support.tiny import tiny_config
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)

from trine import TrineForSequenceClassification, TrineModel, train_wordpiece
from trine.training.finetuning import FinetuneTrainer, hold_out, load_config_and_tokenizer, load_model
from trine.training.objectives.labels import OneClass


LABELS = ["good" if number % 3 else "bad" for number in range(40)]
TEXTS = [f"{'very ' * (number % 5)}{label} {number}" for number, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small encoder with its tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    tokenizer = train_wordpiece(TEXTS, vocab_size=200, show_progress=False)
    tokenizer.save_pretrained(path)
    TrineModel(tiny_config(vocab_size=len(tokenizer), is_causal=False)).save_pretrained(path)
    return str(path)


def make_trainer(folder, output, **options):
    """A trainer on the texts, and the validation examples."""
    set_seed(0)
    problem = OneClass(LABELS)
    config, tokenizer = load_config_and_tokenizer(folder, max_length=16)
    model = load_model(AutoModelForSequenceClassification, folder, problem.names, config=config)
    rows = [{**tokenizer(text), "labels": problem.target(label)} for text, label in zip(TEXTS, LABELS, strict=True)]
    training, validation = hold_out(rows, LABELS, TEXTS, 0.2)
    arguments = {"max_steps": 12, "learning_rate": 1e-2, "save_strategy": "no", "use_cpu": True, "report_to": "none"}
    trainer = FinetuneTrainer(
        model,
        TrainingArguments(str(output), disable_tqdm=True, **arguments),
        train_dataset=training,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda result: problem.measure(result.label_ids, problem.predict(result.predictions)),
        **options,
    )
    return trainer, validation


def test_a_classifier_learns_with_and_without_padding(folder, tmp_path):
    ends = {}
    for padding_free in (True, False):
        trainer, validation = make_trainer(folder, tmp_path, padding_free=padding_free)
        rows = [len(batch["input_ids"]) for batch in trainer.get_train_dataloader()]
        assert rows == ([1] * 4 if padding_free else [8] * 4)
        assert not trainer.model.config.use_cache
        trainer.train()
        assert trainer.model.config.use_cache  # as it was before
        ends[padding_free] = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    for name, weight in ends[True].items():
        torch.testing.assert_close(weight, ends[False][name], atol=1e-4, rtol=1e-3)
    score = trainer.evaluate()["eval_accuracy"]
    trainer.save_model()
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert saved.config.id2label == {0: "bad", 1: "good"}
    answers = [saved(torch.tensor([row["input_ids"]])).logits.argmax().item() for row in validation]
    assert score == np.mean([answer == row["labels"] for answer, row in zip(answers, validation, strict=True)])
    learned = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    assert learned < 0.5  # the shares of the classes alone: 0.64


def test_what_is_trained_with_padding(folder, tmp_path):
    """A set of labels has as many numbers as a text may have tokens; other models do not read packed rows."""
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    sets = TrineForSequenceClassification(tiny_config(is_causal=False, problem_type="multi_label_classification"))
    assert not FinetuneTrainer(sets, arguments).padding_free
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(BertConfig(vocab_size=30, **size))
    before = vars(bert.config).get("use_cache")
    trainer = FinetuneTrainer(bert, arguments)
    assert not trainer.padding_free
    trainer.train_dataset = [{"input_ids": torch.tensor([1, 2]), "labels": 0}]
    trainer.args.max_steps = 1
    trainer.train()
    assert vars(bert.config).get("use_cache") == before


def test_errors_of_loading(folder, tmp_path):
    with pytest.raises(ValueError, match="max_length=100000 is above max_position_embeddings="):
        load_config_and_tokenizer(folder, max_length=100000)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_wordpiece(TEXTS, 200, show_progress=False).backend_tokenizer
    )
    TrineModel(tiny_config(is_causal=False, pad_token_id=None)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no token for padding, nor for the end"):
        load_config_and_tokenizer(str(tmp_path))
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    config, loaded = load_config_and_tokenizer(str(tmp_path))
    assert loaded.pad_token == "[SEP]" and config.pad_token_id == loaded.pad_token_id


def test_each_class_has_its_share_in_both_parts():
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10 + ["d"]
    training, held_out = hold_out([*range(101)], strata, [*range(101)], 0.1, seed=0)
    assert sorted(training + held_out) == [*range(101)]
    assert [sum(strata[index] == name for index in held_out) for name in "abcd"] == [6, 3, 1, 0]
    assert hold_out([*range(101)], strata, [*range(101)], 0.1, seed=0) == (training, held_out)
    assert hold_out([*range(101)], strata, [*range(101)], 0.1, seed=1)[1] != held_out


def test_small_classes_are_held_out_together():
    strata = [index // 4 for index in range(80)]  # 20 classes of 4: a tenth of each would be none
    training, held_out = hold_out([*range(80)], strata, [*range(80)], 0.1, seed=0)
    assert len(held_out) == 8 and len({strata[index] for index in held_out}) == 8
    assert {strata[index] for index in training} == {*range(20)}


def test_a_text_that_is_held_out_is_not_trained_on():
    texts = [index % 10 for index in range(40)]
    training, held_out = hold_out([*range(40)], [None] * 40, texts, 0.1, seed=0)
    assert not {texts[index] for index in training} & {texts[index] for index in held_out}
    with pytest.raises(ValueError, match="validation_fraction=0.01 of 4 records leaves 4 to train on and 0 to"):
        hold_out([*range(4)], [None] * 4, [*range(4)], 0.01, seed=0)
