"""The loss of a head that is spread over two processes, on chunks of tokens, is that of one process."""

import sys
from pathlib import Path

import pytest
import torch
from support import forks
from support.tiny import has_deferred_logits, random_ids
from transformers.distributed.configuration_utils import DistributedConfig

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM


SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "decoder": (TrineForCausalLM, SMALL),  # 61 tokens are 31 and 30; the weight is the embeddings', too
    "untied": (TrineForCausalLM, SMALL | {"tie_word_embeddings": False}),
    "encoder": (TrineForMaskedLM, SMALL | {"is_causal": False, "tie_word_embeddings": False}),  # its head has a bias
}
CASES = [("tp_size", "decoder"), ("tp_size", "encoder"), ("fsdp_size", "untied")]
SMOOTHING = 0.1


def batch() -> dict[str, torch.Tensor]:
    ids = random_ids(3, 20, vocab_size=61)
    labels = ids.clone()
    labels[0, 12:], labels[1, 3:5] = -100, -100
    return {"input_ids": ids, "labels": labels}


def outcome(model) -> dict[str, torch.Tensor]:
    """The loss on chunks of 7 tokens, and all gradients."""
    outputs = model.train()(**batch(), label_smoothing=SMOOTHING)
    assert has_deferred_logits(outputs)
    outputs.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    whole = {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in gradients.items()}
    return {"loss": outputs.loss.detach()} | whole


def run(folder: Path) -> None:
    """In one of the two processes: all cases."""
    torch.distributed.init_process_group("gloo")
    for spread, shape in CASES:
        distributed = DistributedConfig(**{spread: 2})
        model = SHAPES[shape][0].from_pretrained(folder / shape, distributed_config=distributed)
        found = outcome(model)
        if torch.distributed.get_rank() == 0:
            torch.save(found, folder / f"{spread}-{shape}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    for name, (model_class, fields) in SHAPES.items():
        torch.manual_seed(0)
        config = TrineConfig(**fields, loss_chunk_size=7, initializer_range=0.5)
        model_class(config).save_pretrained(folder / name)
    for done in forks.run_ranks(2, [__file__, str(folder)], folder):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("spread", "shape"), CASES)
def test_loss_and_gradients_are_those_of_whole_logits_in_one_process(folder, spread, shape):
    model = SHAPES[shape][0].from_pretrained(folder / shape).train()
    model.config.loss_chunk_size = None
    model(**batch(), label_smoothing=SMOOTHING).loss.backward()
    loss = model(**batch(), label_smoothing=SMOOTHING).loss.detach()
    actual = torch.load(folder / f"{spread}-{shape}.pt")
    torch.testing.assert_close(actual.pop("loss"), loss)
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert actual.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=1e-4, atol=1e-5, msg=name)  # of up to 2


if __name__ == "__main__":
    run(Path(sys.argv[1]))
