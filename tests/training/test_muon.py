"""`--optim muon`: beside PyTorch's own Muon and AdamW, over experts, resumed, and refused where it cannot work."""

import shlex
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import SPARSE, tiny_config
from torch import nn

from trine import TrineForCausalLM, TrineForMaskedLM
from trine.scripts import pretrain
from trine.training.run import muon
from trine.training.run.muon import Muon, MuonFactory, check_whole, choose_optimizer, find_matrices, orthogonal
from trine.training.run.parallelism import Parallelism


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_singular_values_become_one(shape, dtype):
    matrices = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0))
        * torch.tensor([3.0, 1e-3, 50.0])[: shape[0], None, None]
    )
    values = torch.linalg.svdvals(orthogonal(matrices, dtype).float())
    assert values.min() > 0.4 and values.max() < 1.3  # the polynomial's own range, which ends at 0.68 for large ones
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    cosine = nn.functional.cosine_similarity(orthogonal(matrices, dtype).float().flatten(1), (left @ right).flatten(1))
    assert cosine.min() > 0.97


def parameters(*shapes) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_gradients(params, step):
    for number, param in enumerate(params):
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(100 * step + number))


def test_it_steps_as_the_optimizers_of_pytorch():
    """Two matrices of one shape and one of another by PyTorch's Muon with AdamW's scale, the others by AdamW."""
    shapes = [(8, 24), (8, 24), (40, 8)], [(11, 8), (8,)]
    ours, theirs = ([parameters(*some) for some in shapes] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3}
    groups = [{"params": ours[0], "is_matrix": True}, {"params": ours[1]}]
    optimizer = Muon(groups, **options, betas=(0.8, 0.9), eps=1e-6)
    others = [
        torch.optim.Muon(theirs[0], **options, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(theirs[1], **options, betas=(0.8, 0.9), eps=1e-6),
    ]
    before = parameters(*shapes[0])
    for step in range(5):
        for params in (ours, theirs):
            set_gradients([*params[0], *params[1]], step)
        assert optimizer.step(lambda: 7.0) == 7.0
        for other in others:
            other.step()
    for actual, expected in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(actual, expected)
    for actual, expected, start in zip(ours[0], theirs[0], before, strict=True):
        assert (actual - expected).norm() < 0.02 * (expected - start).norm()  # products in bfloat16, in another order


def test_experts_move_one_by_one_and_what_has_no_gradient_stays():
    (stack,) = parameters((4, 12, 8))
    (idle,) = parameters((12, 8))
    alone = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    optimizers = [Muon([{"params": params, "is_matrix": True}], lr=0.1) for params in ([stack, idle], alone)]
    optimizers.append(Muon([{"params": [idle]}], lr=0.1))
    before = idle.detach().clone()
    for step in range(3):
        set_gradients([stack], step)
        for number, matrix in enumerate(alone):
            matrix.grad = stack.grad[number].clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack, torch.stack([*alone]))
    assert torch.equal(idle, before) and not optimizers[2].state


@pytest.mark.parametrize("head", [TrineForCausalLM, TrineForMaskedLM])
@pytest.mark.parametrize("is_tied", [True, False])
def test_what_moves_as_a_matrix(head, is_tied):
    config = tiny_config(
        **SPARSE,
        attention_types="simplicial",
        is_causal=head is TrineForCausalLM,
        mlp_bias=True,
        attention_bias=True,
        tie_word_embeddings=is_tied,
    )
    model = head(config)
    frozen = model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    optimizer = MuonFactory()(model, lr=0.1, weight_decay=0.2)
    groups = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    assert id(frozen) not in groups
    matrices, decayed = set(), set()
    for name, param in model.named_parameters():
        if param is not frozen:
            matrices |= {name} if groups[id(param)]["is_matrix"] else set()
            decayed |= {name} if groups[id(param)]["weight_decay"] == 0.2 else set()
    layers = {f"model.layers.{layer}." for layer in range(config.num_hidden_layers)}
    assert all(name.endswith(("_proj.weight", "up_proj", "down_proj", "dense.weight")) for name in matrices)
    parts = ("self_attn.k_proj.weight", "self_attn.o_proj.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    assert matrices >= {layer + part for layer in layers for part in parts}
    ends = {"model.embed_tokens.weight"} | (set() if is_tied else {name for name in decayed if "decoder" in name})
    assert decayed - matrices >= ends and not any("bias" in name or "norm" in name for name in decayed)
    assert any("router" in name or "gate.weight" in name for name in decayed - matrices)
    assert len(find_matrices(model)) == len(matrices) + 1  # the frozen one


OPTIONS = shlex.split(
    "--optim muon --vocab_size 280 --block_length 32 --validation_fraction 0.2 --max_steps 4 --save_steps 2 "
    "--per_device_train_batch_size 2 --logging_steps 1 --eval_strategy no --disable_tqdm true --use_cpu "
    "--no_baselines --config_overrides hidden_size=16 num_hidden_layers=2 num_attention_heads=2 num_key_value_heads=2 "
    "intermediate_size=16 mlp_layer_types=dense,sparse num_experts=4 router_type=sigmoid hidden_dropout=0.1"
)


def test_a_resumed_run_is_bit_for_bit_the_same(tmp_path):
    """Weights and the optimizer's state of four steps, and of two and two more."""
    (tmp_path / "text.txt").write_text("".join(f"Line {n % 7} is at number {n}.\n" for n in range(300)))
    argv = [*OPTIONS, "--files", str(tmp_path / "text.txt"), "--cache_dir", str(tmp_path / "cache")]
    assert pretrain.main([*argv, "--output_dir", str(tmp_path / "straight")]) == 0
    shutil.copytree(tmp_path / "straight" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    argv += ["--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", "last"]
    assert pretrain.main(argv) == 0
    last = [tmp_path / name / "checkpoint-4" for name in ("straight", "resumed")]
    straight, resumed = (load_file(folder / "model.safetensors") for folder in last)
    first = load_file(tmp_path / "straight" / "checkpoint-2" / "model.safetensors")
    for name, expected in straight.items():
        assert torch.equal(resumed[name], expected), name
    assert not all(torch.equal(first[name], expected) for name, expected in straight.items())
    straight, resumed = (torch.load(folder / "optimizer.pt") for folder in last)
    assert straight["param_groups"] == resumed["param_groups"]
    kinds = set()
    for number, expected in straight["state"].items():
        kinds.add(tuple(expected))
        for name, value in expected.items():
            assert torch.equal(resumed["state"][number][name], value), (number, name)
    assert kinds == {("momentum_buffer",), ("exp_avg", "exp_avg_sq", "step")}


def arguments(**values) -> Any:
    return SimpleNamespace(**{"optim": "muon", "fsdp": None, "deepspeed": None, **values})


@pytest.mark.parametrize(
    ("values", "environment", "parallel", "message"),
    [
        ({"fsdp": True}, {}, {}, "fsdp=True cuts them"),
        ({"deepspeed": "zero3.json"}, {}, {}, "deepspeed='zero3.json' cuts them"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, {}, "fsdp=True cuts them"),
        ({}, {}, {"tp_size": 2}, "tp_size=2 cuts them"),
    ],
)
def test_what_cuts_matrices_is_refused(values, environment, parallel, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"optim='muon' needs whole matrices, and {message}"):
        check_whole(arguments(**values), Parallelism(**parallel))
    check_whole(arguments(**values, optim="sgd"), Parallelism(**parallel))
    assert choose_optimizer(arguments(optim="sgd")) is None


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_precision_of_training_is_that_of_its_products(bf16, dtype, monkeypatch):
    training = arguments(
        bf16=bf16, learning_rate=0.1, adam_beta1=0.7, adam_beta2=0.8, adam_epsilon=1e-5, weight_decay=0.3
    )
    factory, options = choose_optimizer(training) or pytest.fail("there is one")
    optimizer = factory()(TrineForCausalLM(tiny_config()), **options)
    group = next(group for group in optimizer.param_groups if group["is_matrix"])
    assert {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 0.1,
        "betas": (0.7, 0.8),
        "eps": 1e-5,
        "weight_decay": 0.3,
    }
    used = []
    monkeypatch.setattr(muon, "orthogonal", lambda matrices, dtype: used.append(dtype) or matrices)
    set_gradients(group["params"], 0)
    optimizer.step()
    assert {*used} == {dtype}


def test_a_launch_that_cuts_matrices_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "1")
    with pytest.raises(SystemExit, match="trine: optim='muon' needs whole matrices, and fsdp=True cuts them"):
        pretrain.main([*OPTIONS, "--files", "nowhere.txt", "--output_dir", str(tmp_path / "output")])


def test_an_unknown_optimizer_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        pretrain.main(["--optim", "moun", "--files", "nowhere.txt"])
    assert "optim='moun' is not one of ['muon', 'adamw_torch'" in capsys.readouterr().err
