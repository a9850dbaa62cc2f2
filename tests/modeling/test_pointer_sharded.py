"""A pointer-generator that is spread over two processes has the loss and the gradients of one process."""

import sys
from pathlib import Path

import pytest
import torch
from support import forks
from support.tiny import random_ids
from transformers.distributed.configuration_utils import DistributedConfig

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig


STACK = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "loss_chunk_size": 7}
FIELDS = {"pad_token_id": 0, "bos_token_id": 1, "share_embeddings": False, "tie_word_embeddings": False}
SPREADS = ["tp_size", "fsdp_size"]


def outcome(folder: Path, **options) -> dict[str, torch.Tensor]:
    """The loss, and all gradients."""
    model = TrineForConditionalGeneration.from_pretrained(folder / "model", **options).train()
    ids, labels = random_ids(3, 9, vocab_size=20), random_ids(3, 5, seed=1, vocab_size=20)
    labels[0, 3:] = -100
    loss = model(input_ids=ids, labels=labels, label_smoothing=0.1).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    whole = {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in gradients.items()}
    return {"loss": loss.detach()} | whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pointer")
    torch.manual_seed(0)
    stack = {**STACK, "initializer_range": 0.3}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, pointer_size=8, coverage_loss_coef=0.5, **FIELDS)
    TrineForConditionalGeneration(config).save_pretrained(folder / "model")
    for done in forks.run_ranks(2, [__file__, str(folder)], folder):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("spread", SPREADS)
def test_loss_and_gradients_are_those_of_one_process(folder, spread):
    expected, actual = outcome(folder), torch.load(folder / f"{spread}.pt")
    assert actual.keys() == expected.keys() and any(name.startswith("pointer") for name in actual)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def run(folder: Path) -> None:
    """In one of the two processes: both ways."""
    torch.distributed.init_process_group("gloo")
    for spread in SPREADS:
        found = outcome(folder, distributed_config=DistributedConfig(**{spread: 2}))
        if torch.distributed.get_rank() == 0:
            torch.save(found, folder / f"{spread}.pt")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
