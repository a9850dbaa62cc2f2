"""Packed batches hold the real tokens and nothing else, and a model makes of them what it makes of padded ones."""

import pytest
import torch
from support.tiny import SPARSE, random_ids, tiny_model
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from trine import TrineForMaskedLM, TrineForSequenceClassification, TrineForTokenClassification
from trine.tokenization.training import train_byte_level_bpe
from trine.training.data.padding_free import PaddingFreeCollator


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["a few words"], 260, show_progress=False)


def features(lengths=(7, 3, 12, 1), **labels):
    rows = [random_ids(length, seed=length).tolist() for length in lengths]
    return [{"input_ids": row, **{name: value(row) for name, value in labels.items()}} for row in rows]


def test_only_the_real_tokens_remain(tokenizer):
    rows = features(labels=lambda row: row)
    batch = PaddingFreeCollator(DataCollatorForTokenClassification(tokenizer))(rows)
    expected = [token for row in rows for token in row["input_ids"]]
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [expected]
    assert batch["position_ids"].tolist() == [[*range(7), *range(3), *range(12), 0]]
    assert "attention_mask" not in batch


def test_padding_on_the_left_makes_no_difference(tokenizer):
    collator, rows = PaddingFreeCollator(DataCollatorWithPadding(tokenizer)), features()
    right = collator(rows)
    tokenizer.padding_side = "left"
    left = collator(rows)
    tokenizer.padding_side = "right"
    assert all(torch.equal(right[name], left[name]) for name in right)


@pytest.mark.parametrize(
    ("model_class", "labels"),
    [
        (TrineForSequenceClassification, lambda row: row[0] % 3),
        (TrineForTokenClassification, lambda row: [token % 3 for token in row]),
        (TrineForMaskedLM, lambda row: [token if token % 4 == 0 else -100 for token in row]),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"attention_types": "sliding, chunked", **SPARSE}], ids=["dense", "sparse"])
def test_losses_and_gradients_equal_those_of_the_padded_batch(fields, model_class, labels, tokenizer):
    collator, rows = DataCollatorForTokenClassification(tokenizer), features(labels=labels)
    if model_class is TrineForSequenceClassification:
        collator = DataCollatorWithPadding(tokenizer)
    options = {"is_causal": False, "num_labels": 3, "attn": "sdpa", "type_vocab_size": 1, **fields}
    found = []
    for collate in (collator, PaddingFreeCollator(collator)):
        model = tiny_model(model_class, **options).train()
        loss = model(**{name: value for name, value in collate(rows).items() if name != "token_type_ids"}).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_takes_the_same_steps_either_way(accumulation, tokenizer, tmp_path):
    data, losses = features((7, 3, 12, 1, 9, 9, 2, 5), labels=lambda row: [token % 3 for token in row]), []
    collator = DataCollatorForTokenClassification(tokenizer)
    for collate in (collator, PaddingFreeCollator(collator)):
        model = tiny_model(
            TrineForTokenClassification, is_causal=False, num_labels=3, attn="sdpa", dtype=torch.float32
        )
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=1,
        )
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=data)  # pyright: ignore[reportArgumentType]
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 3 and len(set(losses[0])) == 3
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-4, atol=1e-4)


def test_a_collator_without_a_mask_is_named():
    with pytest.raises(ValueError, match="makes \\['input_ids'\\], but no 'attention_mask', which tells padding"):
        PaddingFreeCollator(lambda rows: {"input_ids": torch.zeros(1, 2)})([])


def test_it_collates_for_a_data_loader(tokenizer):
    loader = DataLoader(features(), batch_size=2, collate_fn=PaddingFreeCollator(DataCollatorWithPadding(tokenizer)))  # pyright: ignore[reportArgumentType]
    assert [tuple(batch["input_ids"].shape) for batch in loader] == [(1, 10), (1, 13)]
