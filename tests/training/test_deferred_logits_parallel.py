"""Logits that are computed when they are read, of models that two processes train."""

import pytest
import torch
from support import forks
from support.every_head import CASES, make
from support.tiny import has_deferred_logits
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trine.modeling.block import TrineLayer


def shard(model):
    mesh = init_device_mesh("cpu", (2,))
    for layer in [module for module in model.modules() if isinstance(module, TrineLayer)]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WAYS = {"DDP": DistributedDataParallel, "FSDP2": shard}
READS = {"loss": lambda outputs: outputs.loss, "both": lambda outputs: outputs.loss + outputs.logits.square().mean()}


def gradients(model, wrapped, name: str, read) -> dict[str, torch.Tensor]:
    for _ in range(2):  # what parallel training finds out in the first step, the second one lives by
        model.zero_grad()
        read(wrapped(**CASES[name].batch())).backward()
    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    return {key: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for key, grad in found.items()}


def compare() -> None:
    distributed.init_process_group("gloo")
    for name in ("causal", "masked", "seq2seq"):
        for wrap in WAYS.values():
            for read in READS.values():
                torch.manual_seed(0)
                alone = make(name, loss_chunk_size=None)
                together = make(name, loss_chunk_size=4)
                together.load_state_dict(alone.state_dict())
                expected, wrapped = gradients(alone, alone, name, read), wrap(together)
                torch.testing.assert_close(gradients(together, wrapped, name, read), expected, rtol=1e-4, atol=1e-5)
                assert has_deferred_logits(wrapped(**CASES[name].batch()))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_those_of_one_process(tmp_path):
    """Both processes have the same batch, so that their mean is that of one; with the loss alone, and with logits."""
    for done in forks.run_ranks(2, [__file__], tmp_path):
        assert done.returncode == 0, done.stderr


if __name__ == "__main__":  # one of the two processes
    compare()
