"""`torch.nn.DataParallel`, which `Trainer` takes where one process sees several GPUs, with replicas on the CPU.

PyTorch's own functions make the replicas and put the outputs together; only what copies tensors between devices is
replaced. The parameters of a replica are plain tensors: it has no `parameters()`, so no `device` and no `dtype`.
"""

from importlib import import_module
from threading import Thread

import pytest
import torch
from support.every_head import CASES, make
from support.tiny import SPARSE, tiny_model

from trine import TrineForCausalLM
from trine.configuration.kinds import ATTENTION_KINDS


PARALLEL = "torch.nn.parallel.{}"


class Gather:
    @staticmethod
    def apply(device, dim, *tensors):
        return torch.cat([tensor if tensor.ndim else tensor[None] for tensor in tensors], dim)


def broadcast(tensors, devices, detach=False):
    copies = [[tensor.clone() for tensor in tensors] for _ in devices]
    return [[tensor.detach() for tensor in copy] for copy in copies] if detach else copies


@pytest.fixture
def on_cpu(monkeypatch) -> None:
    replication, gathering = (
        import_module(PARALLEL.format("replicate")),
        import_module(PARALLEL.format("scatter_gather")),
    )
    monkeypatch.setattr(replication, "_get_device_index", lambda device, *_: device)
    monkeypatch.setattr(replication, "_broadcast_coalesced_reshape", broadcast)
    monkeypatch.setattr(gathering, "Gather", Gather)


def parts_of(batch: dict, number: int) -> list[dict]:
    pieces = {name: value.chunk(number) for name, value in batch.items()}
    return [{name: piece[index] for name, piece in pieces.items()} for index in range(number)]


def run(model, parts: list[dict], **options):
    """What `DataParallel.forward` computes, one thread a replica."""
    replicas = import_module(PARALLEL.format("replicate")).replicate(model, list(range(len(parts))))
    outputs = [None] * len(parts)

    def work(index: int) -> None:
        outputs[index] = replicas[index](**parts[index], **options)

    threads = [Thread(target=work, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not list(replicas[0].parameters())
    return import_module(PARALLEL.format("scatter_gather")).gather(outputs, "cpu")


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def check(model, batch: dict, **options) -> None:
    """Losses, outputs and gradients are those of the model itself, part by part; without caches, as in `Trainer`."""
    model.config.use_cache = False
    parts = parts_of(batch, 3)
    alone = [model(**part, **options) for part in parts]
    losses = torch.stack([one.loss.squeeze() for one in alone])
    logits = next(name for name in alone[0] if name.endswith("logits"))
    expected, expected_logits = gradients(model, losses.mean()), torch.cat([one[logits] for one in alone])
    together = run(model, parts, **options)
    torch.testing.assert_close(together.loss.flatten(), losses)
    torch.testing.assert_close(together[logits], expected_logits)
    torch.testing.assert_close(gradients(model, together.loss.mean()), expected)
    for name in options:
        field = name.removeprefix("output_")
        for got, *want in zip(together[field], *(one[field] for one in alone), strict=True):
            torch.testing.assert_close(got, torch.cat(want))


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_every_head(name, is_training, on_cpu):
    check(make(name).train(is_training), CASES[name].batch())


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_every_kind(kind, on_cpu):
    model = tiny_model(TrineForCausalLM, dtype=torch.float32, attention_types=f"{kind}, full")
    check(model.train(), CASES["causal"].batch(), output_hidden_states=True)


def test_what_is_recorded(on_cpu):
    model = tiny_model(TrineForCausalLM, dtype=torch.float32, attn="eager", **SPARSE)
    recorded = {"output_hidden_states": True, "output_attentions": True, "output_router_logits": True}
    check(model.train(), CASES["causal"].batch(), **recorded)


def test_the_number_of_targets_that_a_trainer_gives(on_cpu):
    """It gives each replica its share as a row of a table."""
    model = tiny_model(TrineForCausalLM, dtype=torch.float32).train()
    check(model, {**CASES["causal"].batch(), "num_items_in_batch": torch.full((3, 1), 5)})
