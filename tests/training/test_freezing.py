"""Parts of a model are frozen, learn slower, or begin to learn later; the rest learns as always."""

import re
from collections.abc import Iterator

import pytest
import torch
from support.messages import unseen
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
)

from trine.training import PartialTrainer, PartialTraining
from trine.training.run.callbacks import ExpertLoadCallback, RandomFeatureCallback
from trine.training.run.freezing import find_depths, find_parts
from trine.training.run.trainers import ScheduledSamplingTrainer, TrineTrainer


BERT = BertForSequenceClassification(
    BertConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2)
)
T5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))


def chosen(model, *parts):
    return {*find_parts(model, parts)}


def names_of(model, pattern):
    return {name for name, _ in model.named_parameters(remove_duplicate=False) if re.search(pattern, name)}


@pytest.mark.parametrize(
    ("model", "part", "pattern"),
    [
        (tiny_model(), "embeddings", "embed_tokens"),
        (tiny_model(), "layers.0-1", r"layers\."),
        (tiny_model(), "layers.1", r"layers\.1\."),
        (tiny_model(), "head", r"^model\.norm|lm_head"),
        (tiny_model(position_type="learned", type_vocab_size=2), "embeddings", "embed"),
        (tiny_translator(), "encoder", r"^model\.encoder"),
        (tiny_translator(), "embeddings", "embed_tokens"),
        (tiny_translator(), "decoder.layers.0", r"decoder\.layers\.0\."),
        (tiny_translator(), "decoder.embeddings", r"decoder\.embed_tokens"),
        (tiny_translator("recurrent"), "encoder.layers", r"encoder\.layers"),
        (BERT, "layers.0-1", r"layer\.[01]\."),
        (BERT, "embeddings", r"^bert\.embeddings"),
        (BERT, "head", "pooler|classifier"),
        (T5, "encoder.layers.0", r"encoder\.block\.0\."),
        (T5, "embeddings", r"shared|embed_tokens"),
    ],
)
def test_parts_are_found_by_name(model, part, pattern):
    assert chosen(model, part) == names_of(model, pattern)


def trainer_of(model, folder, trainer_class=None, callbacks=(), **options):
    partial = PartialTraining(**{name: options.pop(name) for name in [*options] if hasattr(PartialTraining(), name)})
    partial.apply(model)
    rows = [{"input_ids": ids, "labels": ids} for ids in random_ids(8, 12)]
    settings = {"max_steps": 4, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": True}
    settings |= {"learning_rate": 1e-2, "use_cpu": True, "save_strategy": "no", "lr_scheduler_type": "constant"}
    arguments = TrainingArguments(str(folder), **settings | options)
    trainer_class = trainer_class or TrineTrainer
    return trainer_class(model, arguments, train_dataset=rows, partial=partial, callbacks=[*callbacks])


def tensors_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("part", ["embeddings", "layers.0", "head"])
def test_frozen_parts_stay_and_the_others_learn(part, tmp_path, capsys):
    """Buffers, too: balance of experts and random features are of the layer."""
    fields: dict = {"mlp_layer_types": "sparse", "router_type": "sigmoid", "attention_types": "performer"}
    model = tiny_model(
        dtype=torch.float32, scale=1.0, performer_redraw_interval=1, **fields, tie_word_embeddings=False
    )
    before, frozen = tensors_of(model), chosen(model, part)
    callbacks = [ExpertLoadCallback(), RandomFeatureCallback()]
    trainer_of(model, tmp_path, freeze=[part], callbacks=callbacks).train()
    sizes = [
        sum(before[name].numel() for name in names) for names in ({*dict(model.named_parameters())} - frozen, frozen)
    ]
    assert f"{sizes[0]:,} parameters are trained, {sizes[1]:,} are frozen ({part})." in capsys.readouterr().out
    after = model.state_dict()
    inside = {"layers.0": "layers.0."}.get(part, "nothing")
    for name, tensor in before.items():
        stays = name in frozen or inside in name
        assert torch.equal(after[name], tensor) == stays, name


def test_a_tensor_that_two_parts_share_is_frozen_with_each(tmp_path):
    model = tiny_translator(dtype=torch.float32)
    PartialTraining(freeze=["encoder"]).apply(model)
    assert not model.lm_head.weight.requires_grad and not model.model.decoder.embed_tokens.weight.requires_grad
    assert all(parameter.requires_grad for parameter in model.model.decoder.layers.parameters())


@pytest.mark.parametrize("trainer_class", [TrineTrainer, PartialTrainer, ScheduledSamplingTrainer])
def test_rates_fall_from_layer_to_layer(trainer_class, tmp_path):
    model = tiny_model(dtype=torch.float32, tie_word_embeddings=False)
    trainer = trainer_of(model, tmp_path, PartialTrainer, layerwise_lr_decay=0.5, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    assert trainer.create_optimizer() is optimizer  # and its rates fall once
    depths = {"lm_head": 0, "model.norm": 0, "layers.1.": 1, "layers.0.": 2, "embed_tokens": 3}
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len([*model.parameters()])
    for name, parameter in model.named_parameters():
        (depth,) = [depth for part, depth in depths.items() if part in name]
        assert rates[id(parameter)] == (1e-2 * 0.5**depth, 0.0 if "norm" in name else 0.1)


def test_depths_of_two_stacks_and_of_tied_embeddings():
    depths = find_depths(tiny_translator())
    assert depths["model.encoder.embed_tokens.weight"] == 3  # the head's, too
    for stack in ("encoder", "decoder"):
        assert [depths[f"model.{stack}.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1)] == [2, 1]
        assert depths[f"model.{stack}.norm.weight"] == 0
    assert {*find_depths(BERT).values()} == {0, 1, 2, 3, 4}


class Watch(TrainerCallback):
    """Notes after each step which parameters have changed."""

    def __init__(self, model):
        self.before, self.changed = tensors_of(model), []

    def on_step_end(self, args, state, control, model, **kwargs):
        after = tensors_of(model)
        self.changed.append({name for name, tensor in after.items() if not torch.equal(tensor, self.before[name])})
        self.before = after


def layers_in(names) -> Iterator[str]:
    return (re.sub(r".*layers\.(\d).*|.*(embed).*|.*(head|norm).*", r"\1\2\3", name) for name in names)


def test_layers_are_unfrozen_from_the_top(tmp_path):
    model = tiny_model(dtype=torch.float32, num_hidden_layers=3, tie_word_embeddings=False)
    watch = Watch(model)
    trainer_of(model, tmp_path, freeze=["layers.1"], unfreeze_every=2, max_steps=7, callbacks=[watch]).train()
    top = {"head", "norm", "2"}
    expected = [top] * 2 + [top | {"0"}] * 2 + [top | {"0", "embed"}] * 3
    assert [{*layers_in(names)} for names in watch.changed] == expected
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [*find_parts(model, ["layers.1"])]


def test_a_resumed_run_unfreezes_where_it_was(tmp_path):
    options = {"unfreeze_every": 2, "layerwise_lr_decay": 0.9, "max_steps": 6, "weight_decay": 0.1}
    straight, stopped = (tiny_model(dtype=torch.float32, scale=1.0) for _ in range(2))
    trainer_of(straight, tmp_path / "a", **options).train()
    trainer_of(
        stopped, tmp_path / "b", **options | {"max_steps": 3, "save_strategy": "steps", "save_steps": 3}
    ).train()
    resumed = tiny_model(dtype=torch.float32, scale=1.0, seed=1)
    trainer_of(resumed, tmp_path / "b", **options).train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    for (name, tensor), other in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


ERRORS = {
    "part": (
        {"freeze": ["layer.0"]},
        "freeze has 'layer.0', which is no part of the model, but ['embeddings', 'head', 'layers', 'layers.0-1'].",
    ),
    "range": ({"freeze": ["layers.0-2"]}, "freeze has 'layers.0-2', which is no part of the model, but ["),
    "backwards": ({"freeze": ["layers.1-0"]}, "freeze has 'layers.1-0', which is no part of the model, but ["),
    "nothing": (
        {"freeze": ["embeddings", "layers", "head"]},
        "freeze=['embeddings', 'layers', 'head'] leaves nothing to train.",
    ),
    "decay": ({"layerwise_lr_decay": 0.0}, "layerwise_lr_decay=0.0 must be above 0, and at most 1."),
    "growth": ({"layerwise_lr_decay": 1.1}, "layerwise_lr_decay=1.1 must be above 0, and at most 1."),
    "steps": ({"unfreeze_every": -1}, "unfreeze_every=-1 must be at least 0."),
    "processes": (
        {"unfreeze_every": 5},
        "unfreeze_every=5 needs one process: 2 would not share the gradients",
    ),
}


def message_of(options) -> str:
    with pytest.raises(ValueError) as refused:
        PartialTraining(**options).apply(tiny_model(), processes=2)
    return str(refused.value)


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_trained_so_is_refused(name):
    assert message_of(ERRORS[name][0]).startswith(ERRORS[name][1])


def test_every_error_is_tested():
    places = unseen("training/run", [message_of(options) for options, _ in ERRORS.values()])
    assert [place for place in places if "freezing.py" in place] == []


def test_an_encoder_decoder_lists_its_parts():
    with pytest.raises(ValueError, match=re.escape("'encoder.layers.0-1', 'head']")):
        find_parts(tiny_translator(), ["encodr"])


def modes_in_training(trainer):
    """Which modules are in training mode in the last forward pass of training."""
    modes: list[dict[str, bool]] = []
    model = trainer.model
    model.register_forward_pre_hook(lambda *_: modes.append({name: m.training for name, m in model.named_modules()}))
    trainer.train()
    return modes[-1]


def test_frozen_parts_are_in_evaluation(tmp_path):
    """No dropout and no count of experts in what does not learn; the rest, and what is unfrozen later, has both."""
    options = {"freeze": ["encoder", "decoder.layers.0"]}
    modes = modes_in_training(trainer_of(tiny_translator(), tmp_path, **options))
    for name, is_training in modes.items():
        rests = name.startswith(("model.encoder", "model.decoder.layers.0", "model.decoder.embed_tokens", "lm_head"))
        assert is_training != rests, name
    modes = modes_in_training(trainer_of(tiny_model(), tmp_path, freeze=["layers.0"], unfreeze_every=1))
    assert {name for name, is_training in modes.items() if not is_training} == {
        name for name in modes if name.startswith("model.layers.0")
    }


def test_frozen_dropout_draws_nothing(tmp_path):
    """The loss with a frozen encoder that has dropout is that of its states in evaluation."""
    model, ids = tiny_translator(), random_ids(2, 9)
    for part in model.get_encoder().modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    trainer, inputs = trainer_of(model, tmp_path, freeze=["encoder"]), {"input_ids": ids, "labels": ids}
    found = [trainer.compute_loss(model.train(), inputs).item() for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(model.eval()(**inputs).loss.item(), rel=1e-12)
