"""Models that are spread over two processes learn what one process does and are saved whole."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from support import forks
from transformers import AutoModel, TrainingArguments, __version__

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineSeq2SeqConfig,
)
from trine.training.run import parallelism
from trine.training.run.parallelism import Parallelism, SharedBatchCallback, check_launch, check_model, make_model
from trine.training.run.trainers import TrineTrainer


STEPS = 3
SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = SMALL | {
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "attention_types": "full, sliding, simplicial, bigbird",
    "sliding_window": 8,
    "simplicial_window": 8,
    "simplicial_second_window": 3,
    "simplicial_offset_bias": True,
    "bigbird_block_size": 2,
    "bigbird_num_window_blocks": 1,
    "qk_norm": True,
    "attention_bias": True,
    "mlp_bias": True,
    "intermediate_size": 37,
}
EXPERTS = SMALL | {
    "attention_types": "full",
    "mlp_layer_types": "dense, sparse",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "tie_word_embeddings": False,
}
PAIRS = SMALL | {"decoder_start_token_id": 0, "pad_token_id": 0, "attention_dropout": 0.0, "hidden_dropout": 0.0}

UNTIED = {"tie_word_embeddings": False, "share_embeddings": False}


def decoder(**fields):
    return TrineForCausalLM, TrineConfig.from_preset("tiny", **fields)


def encoder(**fields):
    return TrineForMaskedLM, TrineConfig.from_preset("tiny", is_causal=False, **fields)


def encoder_decoder(**fields):
    return TrineForConditionalGeneration, TrineSeq2SeqConfig.from_preset("transformer-base", **PAIRS, **fields)


# How the model is spread, and what it is. The balance of experts is computed batch by batch.
CASES = {
    "decoder, tensor parallel": (Parallelism(tp_size=2), lambda: decoder(**DECODER)),
    "decoder, FSDP2": (Parallelism(fsdp_size=2), lambda: decoder(**DECODER, tie_word_embeddings=False)),
    "experts, tensor parallel": (Parallelism(tp_size=2), lambda: decoder(**EXPERTS)),
    "experts, tensor and expert parallel": (Parallelism(tp_size=2, ep_size=2), lambda: decoder(**EXPERTS)),
    "experts, FSDP2 and expert parallel": (Parallelism(fsdp_size=2, ep_size=2), lambda: decoder(**EXPERTS)),
    "encoder, tensor parallel": (Parallelism(tp_size=2), lambda: encoder(**SMALL)),
    "encoder, FSDP2": (Parallelism(fsdp_size=2), lambda: encoder(**SMALL, tie_word_embeddings=False)),
    "encoder-decoder, tensor parallel": (Parallelism(tp_size=2), lambda: encoder_decoder()),
    "encoder-decoder, FSDP2": (Parallelism(fsdp_size=2), lambda: encoder_decoder(**UNTIED)),
}


def rows() -> list[dict[str, torch.Tensor]]:
    """Texts of different lengths, so that the mean over rows is not that over tokens."""
    ids = torch.randint(3, 60, (32, 20), generator=torch.Generator().manual_seed(0))
    masks = torch.arange(20) < 5 + torch.arange(32)[:, None] % 15
    labels = ids.masked_fill(~masks, -100)
    return [
        {"input_ids": row, "attention_mask": mask.long(), "labels": label}
        for row, mask, label in zip(ids, masks, labels, strict=True)
    ]


def train(folder: Path, case: str, world: int) -> None:
    """Trains and saves a model in `folder/case/world`, on the same rows of each step for any number of processes."""
    parallel, make = CASES[case]
    model_class, config = make()
    batches = parallel.fsdp_size
    training = TrainingArguments(
        output_dir=str(folder / case / str(world)),
        max_steps=STEPS,
        per_device_train_batch_size=8 // batches,
        gradient_accumulation_steps=1 if world > 1 else batches,
        learning_rate=0.01,
        adam_epsilon=1e-3,  # a smaller one turns rounding of tiny gradients into steps of full length
        include_num_input_tokens_seen="non_padding",
        logging_steps=1,
        save_strategy="no",
        save_only_model=True,
        use_cpu=True,
        disable_tqdm=True,
        ddp_backend="gloo" if world > 1 else None,
    )
    used = parallel if world > 1 else Parallelism()
    check_launch(used, training)
    check_model(used, config)
    torch.manual_seed(0)
    model = make_model(model_class, config, used, training)
    callbacks = [SharedBatchCallback(used.tp_size)]
    trainer = TrineTrainer(model, training, train_dataset=rows(), callbacks=callbacks)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    AcceleratorState._reset_state()  # which processes share a batch; the next case may have others


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All cases, trained in two processes."""
    folder = tmp_path_factory.mktemp("parallelism")
    for done in forks.run_ranks(2, [__file__, str(folder)], folder):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_model_of_one(folder, case):
    train(folder, case, 1)
    one, two = (folder / case / world for world in "12")
    histories = [json.loads((path / "trainer_state.json").read_text()) for path in (one, two)]
    assert histories[0]["num_input_tokens_seen"] == histories[1]["num_input_tokens_seen"] > 0
    for name in ("loss", "grad_norm"):
        expected, actual = ([row[name] for row in state["log_history"] if name in row] for state in histories)
        assert len(actual) == STEPS
        torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    expected, actual = (load_file(path / "model.safetensors") for path in (one, two))
    assert actual.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_an_ordinary_folder(folder, case):
    model_class, config = CASES[case][1]()
    assert not (folder / case / "2" / "initial-model").exists()
    model, info = model_class.from_pretrained(folder / case / "2", output_loading_info=True)
    assert not any(info.values()), info
    trained, saved = model.state_dict(), load_file(folder / case / "2" / "model.safetensors")
    torch.manual_seed(0)
    made = model_class(config).state_dict()  # of the same seed
    assert trained.keys() == made.keys() >= saved.keys()
    learned = {name for name, weight in saved.items() if weight.ndim > 1 and weight.is_floating_point()}
    assert not any(torch.equal(saved[name], made[name]) for name in learned)
    inputs = {"input_ids": rows()[0]["input_ids"][None]}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    base = AutoModel.from_pretrained(folder / case / "2").eval()
    expected, actual = model.base_model.eval()(**inputs)[0], base(**inputs)[0]
    assert torch.equal(actual, expected) and actual.isfinite().all()


def launched(**fields):
    usual = {"fsdp": None, "deepspeed": None, "load_best_model_at_end": False, "resume_from_checkpoint": None}
    here = {"world_size": 2, "device": torch.device("cpu"), "use_cpu": True, "save_only_model": True}
    return SimpleNamespace(**usual | here | fields)


@pytest.mark.parametrize(
    ("parallel", "fields", "message"),
    [
        ({"tp_size": 0}, {}, r"tp_size=0: a number of processes must be at least 1\."),
        ({"tp_size": 2, "ep_size": 3}, {}, r"ep_size=3 must be a multiple of tp_size=2 and divide .*tp_size \* fsdp_"),
        ({"fsdp_size": 2, "ep_size": 4}, {}, r"ep_size=4 must be .* divide .* tp_size \* fsdp_size=2\."),
        ({"tp_size": 2}, {"world_size": 1}, r"tp_size=2: .*=2 must be .*, which is 1\. Start .*--nproc_per_node 2"),
        ({"tp_size": 2, "fsdp_size": 2}, {}, r"tp_size=2, fsdp_size=2: .*=4 must be the number of processes, .* 2\."),
        ({"tp_size": 2}, {"fsdp": ["full_shard"]}, r"fsdp=\['full_shard'\] does not go together with tp_size=2\."),
        ({"tp_size": 2}, {"deepspeed": "zero.json"}, r"deepspeed='zero\.json' does not go together"),
        ({"fsdp_size": 2}, {"load_best_model_at_end": True}, r"load_best_model_at_end=True does not go together"),
        ({"fsdp_size": 2}, {"resume_from_checkpoint": "last"}, r"resume_from_checkpoint='last': with fsdp_size=2 no "),
        ({"fsdp_size": 2}, {"save_only_model": False}, r"save_only_model=False, .*fsdp_size=2 .*--save_only_model"),
    ],
)
def test_what_cannot_be_launched(parallel, fields, message, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    with pytest.raises(ValueError, match=message):
        check_launch(Parallelism(**parallel), launched(**fields))


def test_devices_that_are_not_used(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(ValueError, match=r"use_cpu=True trains on 'cpu', and tp_size=2 .* 'cuda'"):
        check_launch(Parallelism(tp_size=2), launched())


def test_an_old_library(monkeypatch):
    monkeypatch.setattr(parallelism, "NEEDED", "99.0")
    with pytest.raises(ImportError, match=rf"tp_size=2 needs transformers 99\.0 or newer; this is {__version__}\."):
        check_launch(Parallelism(tp_size=2), launched())
    check_launch(Parallelism(), launched(world_size=1))


@pytest.mark.parametrize(
    ("parallel", "make", "message"),
    [
        (
            {"fsdp_size": 2},
            lambda: decoder(**DECODER),
            r"tie_word_embeddings=True with fsdp_size=2: .*_embeddings=false",
        ),
        (
            {"tp_size": 3},
            lambda: decoder(**DECODER),
            r"num_attention_heads=4 is not a multiple of 3, which tp_size=3 ",
        ),
        (
            {"tp_size": 4},
            lambda: decoder(**DECODER),
            r"num_key_value_heads=2 is not a multiple of 4, which tp_size=4 ",
        ),
        ({"tp_size": 2, "ep_size": 2}, lambda: decoder(**DECODER), r"mlp_layer_types has no 'sparse' .* ep_size=2 "),
        ({"fsdp_size": 3, "ep_size": 3}, lambda: decoder(**EXPERTS), r"num_experts=4 is not a multiple of 3"),
        (
            {"tp_size": 2},
            lambda: decoder(**EXPERTS | {"moe_intermediate_size": 21}),
            r"moe_intermediate_size=21 is not a multiple of 2",
        ),
        (
            {"tp_size": 2},
            lambda: decoder(**SMALL, position_type="relative"),
            r"position_type='relative' has no tensor-parallel plan, and tp_size=2",
        ),
        (
            {"tp_size": 2},
            lambda: encoder_decoder(decoder={"num_attention_heads": 1}),
            r"decoder\.num_attention_heads=1 is not a multiple of 2",
        ),
    ],
)
def test_models_that_cannot_be_spread(parallel, make, message):
    with pytest.raises(ValueError, match=message):
        check_model(Parallelism(**parallel), make()[1])


def test_what_is_spread_over_one_process_is_as_it_is(tmp_path):
    model_class, config = decoder(**DECODER)
    training = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_model(Parallelism(), config)
    assert make_model(model_class, config, Parallelism(), training).tp_size is None
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":  # one of the two processes
    for name in CASES:
        train(Path(sys.argv[1]), name, 2)
