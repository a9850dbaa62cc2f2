"""Objectives of distillation against loops in float64, packed and padded, in chunks; and what the trainer refuses."""

import math

import pytest
import torch
from support.distilling import LENGTHS, loss_of, make_trainer, padded_batch, translator
from support.tiny import random_ids, tiny_model
from transformers import TrainingArguments

from trine import (
    TrineForMaskedLM,
    TrineModel,
)
from trine.training.data.padding_free import PaddingFreeCollator
from trine.training.objectives.distillation import logits as logits_file
from trine.training.objectives.distillation.base import DistillationOptions
from trine.training.objectives.distillation.hidden import map_layers
from trine.training.objectives.distillation.relations import count_heads
from trine.training.run.distillation import DistillationTrainer


NARROW = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def rows_of(batch):
    """The token ids of each text without padding."""
    return [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def softmax(row):
    top = max(row)
    total = sum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


def kl(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student), strict=True))


def test_logits_are_the_loop(tmp_path):
    teacher, student, batch = tiny_model(seed=1, scale=2.0), tiny_model(seed=2, scale=2.0, **NARROW), padded_batch()
    trainer = make_trainer(tmp_path, student, teacher, temperature=3.0, alpha_logits=0.7, alpha_labels=0.4)
    soft = hard = number = 0.0
    for row in rows_of(batch):
        mine, its = (model(row[None]).logits[0].tolist() for model in (student, teacher))
        for place in range(len(row) - 1):
            soft += 9 * kl([x / 3 for x in its[place]], [x / 3 for x in mine[place]])
            hard -= math.log(softmax(mine[place])[row[place + 1]])
            number += 1
    assert loss_of(trainer, batch).item() == pytest.approx((0.7 * soft + 0.4 * hard) / number, rel=1e-9)


def test_logits_of_masked_tokens_and_of_what_is_written(tmp_path):
    """Only masked tokens count in an encoder; an encoder-decoder predicts each label in its own place."""
    batch = padded_batch()
    batch["labels"] = batch["labels"].masked_fill(torch.arange(max(LENGTHS)) % 3 != 1, -100)
    models = [tiny_model(TrineForMaskedLM, is_causal=False, seed=seed, scale=2.0) for seed in (1, 2)]
    chosen = batch["labels"] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    its, mine = (model(**inputs).logits[chosen].tolist() for model in models)
    expected = sum(4 * kl([x / 2 for x in t], [x / 2 for x in s]) for t, s in zip(its, mine, strict=True)) / len(its)
    trainer = make_trainer(tmp_path, models[1], models[0])
    assert loss_of(trainer, batch).item() == pytest.approx(expected, rel=1e-9)

    batch = padded_batch()
    models = [translator(seed=seed).eval() for seed in (1, 2)]
    chosen = batch["labels"] != -100
    its, mine = (model(**batch).logits[chosen].tolist() for model in models)
    expected = sum(4 * kl([x / 2 for x in t], [x / 2 for x in s]) for t, s in zip(its, mine, strict=True)) / len(its)
    trainer = make_trainer(tmp_path, models[1], models[0])
    assert loss_of(trainer, batch).item() == pytest.approx(expected, rel=1e-9)
    assert math.isfinite(loss_of(make_trainer(tmp_path, models[1], models[0], objective=["hidden"]), batch).item())
    assert math.isfinite(loss_of(make_trainer(tmp_path, models[1], models[0], objective=["relations"]), batch).item())


def test_written_texts_are_the_loop_with_the_gradients_of_the_whole(tmp_path, monkeypatch):
    """Every label of a text that a teacher wrote counts once, whatever the chunks."""
    monkeypatch.setattr(logits_file, "SHORTEST_CHUNK", 3)
    monkeypatch.setattr(logits_file, "LARGEST_BUFFER", 3 * 61)
    batch, student = padded_batch(), translator(seed=2)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    logits = student(**batch).logits
    rows, labels = logits.flatten(0, 1).tolist(), batch["labels"].flatten().tolist()
    losses = [-math.log(softmax(row)[label]) for row, label in zip(rows, labels, strict=True) if label != -100]
    loss = loss_of(make_trainer(tmp_path, student, None, objective=["sequences"], alpha_sequences=0.5), batch)
    assert loss.item() == pytest.approx(0.5 * sum(losses) / len(losses), rel=1e-9)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    (0.5 * torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())).backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, **CLOSE)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_hidden_states_are_the_loop(distance, tmp_path):
    teacher, student, batch = tiny_model(seed=1, num_hidden_layers=4), tiny_model(seed=2, **NARROW), padded_batch()
    options = {"objective": ["hidden"], "hidden_distance": distance, "layer_map": "0:0 1:3, 2:4"}
    trainer = make_trainer(tmp_path, student, teacher, **options)
    weight = trainer.projections["hidden_map_0"].weight.tolist()
    found = []
    for own, taught in ((0, 0), (1, 3), (2, 4)):
        parts = []
        for row in rows_of(batch):
            states = [model(row[None], output_hidden_states=True).hidden_states for model in (student, teacher)]
            for mine, its in zip(states[0][own][0].tolist(), states[1][taught][0].tolist(), strict=True):
                mapped = [sum(w * x for w, x in zip(line, mine, strict=True)) for line in weight]
                if distance == "mse":
                    parts += [(a - b) ** 2 for a, b in zip(mapped, its, strict=True)]
                else:
                    dot = sum(a * b for a, b in zip(mapped, its, strict=True))
                    parts.append(1 - dot / math.hypot(*mapped) / math.hypot(*its))
        found.append(sum(parts) / len(parts))
    assert loss_of(trainer, batch).item() == pytest.approx(sum(found) / 3, rel=1e-9)


def test_relations_are_the_loop(tmp_path):
    """Values of 16 and of 8 numbers in 4 parts, where the models have 4 and 3 heads."""
    teacher, student, batch = tiny_model(seed=1, scale=2.0), tiny_model(seed=2, scale=2.0, **NARROW), padded_batch()
    trainer = make_trainer(tmp_path, student, teacher, objective=["relations"], relation_heads=4, relation_layer=0)
    total = 0.0
    for row in rows_of(batch):
        found = []
        for model, layer in ((student, 1), (teacher, 0)):
            seen = []
            projection = model.model.layers[layer].self_attn.v_proj
            handle = projection.register_forward_hook(lambda *given, seen=seen: seen.append(given[2][0].tolist()))
            model.eval()(row[None])
            handle.remove()
            found.append(seen[0])
        for part in range(4):
            sides = [[v[part * len(v) // 4 : (part + 1) * len(v) // 4] for v in values] for values in found]
            for place in range(len(row)):
                scores = [
                    [sum(a * b for a, b in zip(side[place], other, strict=True)) / len(other) ** 0.5 for other in side]
                    for side in sides
                ]
                total += kl(scores[1], scores[0])
    assert loss_of(trainer, batch).item() == pytest.approx(total / (4 * sum(LENGTHS)), rel=1e-9)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_embeddings_are_the_loop(pooling, distance, tmp_path):
    student = tiny_model(TrineModel, is_causal=False)
    vectors = torch.randn(len(LENGTHS), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch = padded_batch(teacher_embeddings=vectors)
    options = {"objective": ["embeddings"], "embedding_distance": distance}
    trainer = make_trainer(tmp_path, student, None, embeddings={"size": 7, "pooling": pooling}, **options)
    found = []
    for row, vector in zip(rows_of(batch), vectors, strict=True):
        states = student(row[None]).last_hidden_state[0]
        pooled = {"mean": states.sum(0) / len(states), "cls": states[0], "lasttoken": states[-1]}[pooling]
        mapped = trainer.projections["embeddings_map"].weight @ pooled
        cosine = mapped @ vector / mapped.norm() / vector.norm()
        found.append((1 - cosine if distance == "cosine" else ((mapped - vector) ** 2).sum() / 7).item())
    assert loss_of(trainer, batch).item() == pytest.approx(sum(found) / len(found), rel=1e-9)


ALL = {"objective": ["logits", "hidden", "relations", "embeddings"], "alpha_labels": 0.5, "layer_map": "uniform"}


@pytest.mark.parametrize(
    "fields",
    [{}, NARROW, {"attention_types": "sliding, linear", "mlp_layer_types": "sparse, dense"}],
    ids=["equal", "narrow", "other kinds"],
)
def test_packed_batches_have_the_losses_and_gradients_of_padded_ones(fields, tmp_path):
    teacher, vectors = tiny_model(seed=1), torch.ones(len(LENGTHS), 7, dtype=torch.float64)
    padded = padded_batch()
    packed = PaddingFreeCollator(lambda features: padded_batch())([])
    found = []
    for batch in (padded, packed):
        student = tiny_model(seed=2, **fields)
        torch.manual_seed(0)  # of the projections
        trainer = make_trainer(tmp_path, student, teacher, embeddings={"size": 7}, **ALL)
        loss = loss_of(trainer, {**batch, "teacher_embeddings": vectors})
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in student.parameters())])
    assert len(found[0]) > 20 and all(grad is not None for grad in found[0])
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(padded, packed, **CLOSE)


def test_logits_come_in_chunks_with_the_gradients_of_the_whole(tmp_path, monkeypatch):
    """Neither model projects more tokens than a chunk has at a time; gradients are those of autograd on all."""
    monkeypatch.setattr(logits_file, "SHORTEST_CHUNK", 3)
    teacher, student, batch = tiny_model(seed=1), tiny_model(seed=2), padded_batch()
    seen = []
    for model in (teacher, student):
        model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    monkeypatch.setattr(logits_file, "LARGEST_BUFFER", 3 * 61)
    trainer = make_trainer(tmp_path, student, teacher, alpha_labels=0.5)
    loss_of(trainer, batch).backward()
    predicted = sum(LENGTHS) - len(LENGTHS)
    sizes = [3] * (predicted // 3) + [predicted % 3] * (predicted % 3 > 0)
    assert sorted(seen) == sorted([(size, 61) for size in sizes] * 2)
    grads = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        its = teacher(**inputs).logits[:, :-1]
    mine, chosen = student(**inputs).logits[:, :-1], batch["labels"][:, 1:] != -100
    its, mine = (x[chosen] for x in (its, mine))
    soft = 4 * torch.nn.functional.kl_div(
        (mine / 2).log_softmax(-1), (its / 2).softmax(-1), reduction="batchmean"
    ) + 0.5 * torch.nn.functional.cross_entropy(mine, batch["labels"][:, 1:][chosen])
    soft.backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, **CLOSE)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path):
    models = [tiny_model(seed=1) for _ in range(2)]
    trainer = make_trainer(tmp_path, *models, objective=["logits", "hidden", "relations"], layer_map="uniform")
    loss_of(trainer, padded_batch()).backward()
    assert all(parameter.grad.abs().max() < 1e-10 for parameter in trainer.model.parameters())
    assert not trainer.teacher_model.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in models[1].parameters())


def test_without_its_weight_a_teacher_is_not_asked(tmp_path):
    trainer = make_trainer(tmp_path, tiny_model(), tiny_model(seed=1), alpha_logits=0, alpha_labels=1)
    batch = padded_batch()
    loss = loss_of(trainer, batch)
    assert trainer.teacher_model is None
    assert loss.item() == pytest.approx(trainer.model.eval()(**batch).loss.item(), rel=1e-9)


def test_router_losses_are_added_in_training_only(tmp_path):
    fields = {"mlp_layer_types": "sparse", "router_aux_loss_coef": 1.0}
    trainer = make_trainer(tmp_path, tiny_model(seed=2, **fields), tiny_model(seed=1))
    batch, model = padded_batch(), trainer.model
    trained = loss_of(trainer, batch).item()
    evaluated = trainer.compute_loss(model.eval(), dict(batch)).item()
    aux = model(**batch, output_router_logits=True).aux_loss.item()
    assert trained - evaluated == pytest.approx(aux, rel=1e-6)


def test_a_run_is_resumed_with_its_projections_and_saved_without(tmp_path):
    def run(folder, steps, **more):
        torch.manual_seed(0)
        student = tiny_model(TrineModel, is_causal=False, dtype=torch.float32, scale=1.0, **NARROW)
        rows = [{"input_ids": random_ids(8, seed=seed)} for seed in range(12)]
        arguments = TrainingArguments(
            output_dir=str(tmp_path / folder),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            max_steps=4,
            save_steps=2,
            logging_steps=1,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            remove_unused_columns=False,
        )
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher_model=tiny_model(TrineModel, is_causal=False, seed=1, dtype=torch.float32, scale=1.0),
            distillation=DistillationOptions(objective=["hidden", "relations"]),
            train_dataset=rows,
            eval_dataset=rows[:5],
        )
        trainer.train(**more)
        return trainer

    whole = run("whole", 4)
    resumed = run("resumed", 4, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for mine, its in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, its)
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    assert logged[-1]["loss_hidden"] < logged[0]["loss_hidden"] and "loss_relations" in logged[0]
    assert logged[0]["loss"] == pytest.approx(logged[0]["loss_hidden"] + logged[0]["loss_relations"], abs=1e-3)
    found = whole.evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_loss_hidden"] + found["eval_loss_relations"], rel=1e-6)
    whole.save_model(str(tmp_path / "saved"))
    assert whole.projections is not None
    loaded, info = TrineModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values()) and not hasattr(loaded, "distillation")
    assert torch.equal(loaded.layers[0].mlp.up_proj.weight, whole.model.layers[0].mlp.up_proj.weight)


def test_layers_are_mapped():
    assert map_layers("last", 3, 12) == [(3, 12)]
    assert map_layers("uniform", 3, 12) == [(0, 0), (1, 4), (2, 8), (3, 12)]
    assert map_layers("1:2, 3:6", 3, 6) == [(1, 2), (3, 6)]


def test_relation_heads_divide_both_widths():
    assert [count_heads(None, *widths, 12) for widths in ((384, 768), (312, 768), (5, 7))] == [12, 12, 1]


def test_half_precision_reaches_the_layers_of_a_model_with_a_head(tmp_path):
    losses = []
    for bf16 in (False, True):
        student, teacher = (tiny_model(seed=seed, dtype=torch.float32, scale=1.5) for seed in (2, 1))
        seen = []
        student.model.layers[0].mlp.up_proj.register_forward_hook(
            lambda *given, seen=seen: seen.append(given[2].dtype)
        )
        trainer = make_trainer(tmp_path, student, teacher, bf16=bf16, objective=["logits", "relations"])
        losses.append(loss_of(trainer, padded_batch()).item())
        assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
