"""A batch without a target has the loss 0 and adds nothing: neither to gradients, nor to a step of several batches."""

import pytest
import torch
from support.every_head import CASES, SPARSE_EXPERTS, TOKEN_CASES, gradients, make
from support.tiny import random_ids
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, Trainer, TrainingArguments

from trine.configuration.kinds import ATTENTION_KINDS
from trine.modeling.heads.classification_losses import value_loss
from trine.training.run.trainers import TrineTrainer


COUNTS = {"counted": None, "int": 0, "tensor": torch.tensor(0)}


def assert_nothing_is_added(model, inputs, **kwargs) -> None:
    loss, grads = gradients(model, inputs, **kwargs)
    assert loss == 0 and grads
    assert [name for name, grad in grads.items() if not torch.equal(grad, torch.zeros_like(grad))] == []


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CASES)
def test_labels_that_are_all_ignored(name, count):
    model = make(name)
    assert_nothing_is_added(model, CASES[name].empty_batch(), num_items_in_batch=COUNTS[count])
    assert gradients(model, CASES[name].batch())[0] > 0


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", TOKEN_CASES)
def test_no_target_token_with_and_without_chunks(name, smoothing, chunk):
    model, inputs = make(name, loss_chunk_size=chunk), CASES[name].empty_batch()
    assert_nothing_is_added(model, inputs, label_smoothing=smoothing)
    assert model.eval()(**inputs).loss == 0


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", ["causal", "masked", "seq2seq", "tokens", "sequences", "choices", "spans"])
def test_router_losses_of_a_batch_without_a_target(name, chunk):
    model = make(name, loss_chunk_size=chunk, **SPARSE_EXPERTS)
    for count in COUNTS.values():
        assert_nothing_is_added(model, CASES[name].empty_batch(), num_items_in_batch=count)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_texts_of_one_token(kind):
    ids = random_ids(2, 1)
    for chunk in (1024, None):
        assert_nothing_is_added(
            make("causal", attention_types=kind, loss_chunk_size=chunk), {"input_ids": ids, "labels": ids}
        )


@pytest.mark.parametrize("name", ["causal", "masked", "seq2seq", "recurrent", "tokens"])
def test_in_half_precision(name):
    inputs = CASES[name].empty_batch()
    assert_nothing_is_added(make(name).bfloat16(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_nothing_is_added(make(name), inputs)


@pytest.mark.parametrize("name", ["causal", "masked", "pretraining", "seq2seq", "tokens", "sequences"])
def test_a_step_with_an_empty_batch_is_the_step_without_it(name):
    """Exactly, router losses included."""
    case, steps = CASES[name], []
    labels = case.labels["labels"]
    count = (labels[:, 1:] if name == "causal" else labels).ne(-100).sum()
    for batches in ([case.batch()], [case.empty_batch(), case.batch(), case.empty_batch()]):
        model = make(name, **SPARSE_EXPERTS)
        for batch in batches:
            model(**batch, num_items_in_batch=count).loss.backward()
        steps.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert steps[0].keys() == steps[1].keys()
    assert all(torch.equal(steps[0][key], steps[1][key]) for key in steps[0])
    assert any(grad.any() for grad in steps[0].values())


def test_next_sentences_without_a_masked_token():
    """There is a target, so that there is a loss: that of the sentences."""
    inputs, sentences = CASES["pretraining"].empty_batch(), CASES["sentences"].labels
    model = make("pretraining")
    both, alone = model(**inputs, **sentences), model(inputs["input_ids"], **sentences)
    assert both.loss == alone.loss > 0


def test_a_value_is_never_an_ignored_label():
    """Of four values -100 is one, in the number that the sum is divided by."""
    logits = torch.zeros(4, 1)
    loss = value_loss(logits, torch.tensor([-100.0, 0, 0, 2]), "regression", None)
    assert loss.item() == (100**2 + 2**2) / 4


def arguments(folder, **fields) -> TrainingArguments:
    return TrainingArguments(
        str(folder), optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant",
        save_strategy="no", logging_steps=1, disable_tqdm=True, use_cpu=True, **fields
    )  # fmt: skip


@pytest.mark.parametrize("trainer_class", [Trainer, TrineTrainer])
def test_trainer_with_a_record_that_is_fully_masked(trainer_class, tmp_path):
    """One of six in batches of one: its step changes nothing, and nothing is NaN."""
    ids = random_ids(6, 8)
    labels = ids.clone()
    labels[3] = -100
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    states = []
    for records in (data, [*data[:3], *data[4:]]):
        model = make("causal")
        settings = arguments(
            tmp_path,
            per_device_train_batch_size=1,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            label_smoothing_factor=0.1 if trainer_class is TrineTrainer else 0.0,
        )
        trainer = trainer_class(model, settings, train_dataset=records)
        trainer.train()
        states.append(model.state_dict())
    assert all(tensor.isfinite().all() for tensor in states[0].values())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["lm_head.weight"], make("causal").state_dict()["lm_head.weight"])


def test_trainer_with_the_collator_of_transformers_on_short_texts(tmp_path):
    """Of two words, most often none is masked."""
    words = ["[PAD]", "[MASK]", "[UNK]", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]")
    texts = [dict(fast(text)) for text in ("a b", "c d", "e f", "g h") * 5]
    seen = []

    class Collator(DataCollatorForLanguageModeling):
        def __call__(self, *args, **kwargs):
            batch = super().__call__(*args, **kwargs)
            seen.append((batch["labels"] != -100).any().item())
            return batch

    model = make("masked")
    settings = arguments(tmp_path, per_device_train_batch_size=1, num_train_epochs=1)
    trainer = Trainer(model, settings, train_dataset=texts, data_collator=Collator(fast, seed=0))
    trainer.train()
    assert {True, False} <= set(seen)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(loss > 0 for loss in losses) == sum(seen) and 0 in losses
