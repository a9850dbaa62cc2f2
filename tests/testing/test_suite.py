"""The suite: Trine's own kinds pass it, oracles are asked, and what cannot be checked is said."""

import math

import pytest
import torch
from support.plugins import tables_restored, write_sigmoid
from torch import nn

from trine import PairwiseAttention, register_attention, register_feed_forward, register_router
from trine.configuration.kinds import KIND_TABLES
from trine.modeling.feed_forward.routers import ROUTERS
from trine.testing import CHECKS, check_mechanism
from trine.testing.subjects import Subject, find_subjects


OWN = [(field, name) for field, rows in KIND_TABLES.items() for name in rows]
LONG = ["compilation", "sharing"]


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("field", "name"), OWN)
def test_own_kinds_pass(field, name):
    rows = check_mechanism(Subject(field, name), skip=LONG)
    assert [row for row in rows if not row.passed] == []
    assert len(rows) >= 15


@pytest.mark.slow
@pytest.mark.parametrize(("field", "name"), OWN)
def test_own_kinds_compile_and_are_shared(field, name):
    assert [row for row in check_mechanism(Subject(field, name), only=LONG) if not row.passed] == []


def attend(layer, states):
    """Causal softmax attention of grouped heads without positions, written with loops."""
    batch, length, _ = states.shape
    query, key, value = (
        projection(states).view(batch, length, -1, layer.head_dim)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    rows = []
    for place in range(length):
        heads = []
        for head in range(query.shape[2]):
            group = head * key.shape[2] // query.shape[2]
            keys, values = key[:, : place + 1, group], value[:, : place + 1, group]
            weights = (keys @ query[:, place, head, :, None] / math.sqrt(layer.head_dim)).softmax(dim=1)
            heads.append((weights * values).sum(dim=1))
        rows.append(torch.cat(heads, dim=-1))
    return layer.o_proj(torch.stack(rows, dim=1))


def route(router, states):
    logits = states @ router.weight.T
    weights, index = logits.softmax(dim=-1).topk(router.top_k, dim=-1)
    return logits, weights / weights.sum(dim=-1, keepdim=True), index


class Uncapped(PairwiseAttention):
    pass


def test_what_an_oracle_says_holds_for_outputs_and_gradients():
    register_attention("uncapped", Uncapped, shareable=False)
    for mechanism, oracle in {"full": attend, Uncapped: attend, "softmax": route}.items():
        (row,) = check_mechanism(mechanism, oracle=oracle, only=["oracle"])
        assert row.passed and "differs by at most" in row.detail, row


@pytest.mark.parametrize(
    ("name", "oracle", "told"),
    [
        ("full", lambda *inputs: 1.001 * attend(*inputs), "output 0: differs by"),
        ("full", lambda layer, states: attend(layer, states.detach()), "the gradient of the input: differs by"),
        ("softmax", lambda *inputs: route(*inputs)[:2], "3 outputs, where the oracle has 2"),
    ],
)
def test_an_oracle_that_says_something_else_fails_the_check(name, oracle, told):
    (row,) = check_mechanism(name, oracle=oracle, only=["oracle"])
    assert row.passed is False and row.detail.startswith(told)
    assert "oracle" not in [each.name for each in check_mechanism(name, only=["oracle", "construction"])]


class Doubled(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.proj(hidden_states)


class Noisy(ROUTERS["softmax"]):
    def __init__(self, config):
        super().__init__(config)
        self.noise = nn.Linear(config.hidden_size, config.num_experts)

    def logits(self, hidden_states):
        logits = super().logits(hidden_states)
        return logits + torch.randn_like(logits) * self.noise(hidden_states) if self.training else logits


def test_a_weight_that_only_training_reads_has_its_gradient_there():
    """The noise of Shazeer et al. 2017; see `unused` of the broken mechanisms for one that nothing reads."""
    register_router("noisy", Noisy, shareable=False)
    (row,) = check_mechanism(Noisy, only=["gradients"])
    assert row.passed, row


def test_what_stays_behind_is_not_checked_for_sharing():
    register_feed_forward("doubled", Doubled, shareable=False)
    (row,) = check_mechanism(Doubled, only=["sharing"])
    assert row.passed is None and "shareable=False" in row.detail and row.hint == ""


def test_other_fields_are_passed_on():
    (row,) = check_mechanism("full", only=["construction"], hidden_size=30)
    assert row.passed is False and "hidden_size" in row.detail
    assert [subject.config().hidden_size for subject in find_subjects("full", hidden_size=64)] == [64]


def test_a_name_of_two_tables_means_both():
    register_attention("softmax", Uncapped, shareable=False)
    assert {subject.field for subject in find_subjects("softmax")} == {"attention_types", "router_type"}


def test_an_error_names_the_line_of_the_file(tmp_path):
    file = write_sigmoid(tmp_path, "erring", "erring")
    text = file.read_text().replace("weights = positive(scores + self.bias)", "weights = scores + self.absent")
    file.write_text(text)
    row = check_mechanism(str(file), only=["construction", "padding"])[-1]
    assert row.name == "construction", "nothing else is run"
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "self.absent" in line)
    assert row.detail == f"AttributeError: 'SigmoidAttention' object has no attribute 'absent' (line {line})"


def test_what_is_not_there_is_said_by_name(tmp_path):
    file = write_sigmoid(tmp_path, "present", "present")
    (tmp_path / "empty_one.py").write_text("VALUE = 1\n")
    for what, message in {
        "fulll": "'fulll' is not one of .* Did you mean 'full'",
        f"{file}:Sigmoid": "has no 'Sigmoid'. Did you mean 'SigmoidAttention'",
        str(tmp_path / "empty_one.py"): "registers no mechanism",
        Doubled: "is not registered",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_subjects(what)
    with pytest.raises(FileNotFoundError, match="absent.py is not a file"):
        find_subjects("absent.py")
    with pytest.raises(ValueError, match=r"'caching' is not one of the checks \['construction'"):
        check_mechanism("full", only=["caching"])
    with pytest.raises(ValueError, match="'caching' is not one of the checks"):
        check_mechanism("full", skip=["caching"])


def test_every_check_that_can_fail_has_a_hint_and_a_sentence():
    for check in CHECKS:
        assert check.run.__doc__ and (check.hint or check.name == "cost")
