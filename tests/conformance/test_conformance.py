"""Runs the library's common model tests on every case of the table in cases.py."""

import unittest
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import pytest
from conformance.cases import CASES, Case, DecoderTester
from conformance.known import reason_for
from conformance.upstream import load
from transformers.models.auto import modeling_auto

from trine import TrineConfig, TrineForCausalLM, TrineModel
from trine.configuration.kinds import (
    ATTENTION_KINDS,
    FEED_FORWARD_KINDS,
    INITIALIZERS,
    NORM_POSITIONS,
    NORM_TYPES,
    POSITION_KINDS,
    ROUTER_KINDS,
)


common = load("test_modeling_common")
configuration = load("test_configuration_common")
training = load("test_training_mixin")
tensor_parallel = load("test_tensor_parallel_mixin")
expert_parallel = load("test_expert_parallel_mixin")
fsdp = load("test_fsdp_mixin")

# The library runs these tests on a sample of its own models only, and wants one core for each process.
tensor_parallel.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
expert_parallel.EP_DISTRIBUTED_TEST_MODEL_TYPES = None
fsdp.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
fsdp._get_available_fsdp_workers = lambda: 8


def set_epsilons(config) -> None:
    """Set the epsilons of a config to 1. The library's own helper adds the names that any other model has for them.

    A TrineConfig with unknown fields cannot be loaded again.
    """
    for name in vars(config):
        if name.endswith("_eps"):
            setattr(config, name, 1.0)


common.set_config_for_less_flaky_test = set_epsilons

SINGLE = (common.ModelTesterMixin, common.GenerationTesterMixin, training.TrainingTesterMixin)
DISTRIBUTED = (
    tensor_parallel.TensorParallelTesterMixin,
    expert_parallel.ExpertParallelTesterMixin,
    fsdp.FSDPTesterMixin,
)


class ConfigurationTests:
    """The library's tests of a configuration class, which are one test of each of its models."""

    case: Case
    model_tester: DecoderTester

    def test_config(self):
        config_class = self.case.classes[0]
        configuration.ConfigTester(self, config_class=config_class, **self.model_tester.fields).run_common_tests()


class Adapted:
    """Tests that find their subject by a name or a text, and would be skipped; and what they take from the config."""

    def _get_tiny_config(self):
        # The load-balancing loss of a batch is not the mean of the losses of its parts, on which each process works.
        config_class, fields = super()._get_tiny_config()
        return config_class, fields | {"router_aux_loss_coef": 0.0}

    def test_moe_models_record_router_logits(self):
        with patch.object(common.inspect, "getsource", return_value="@use_experts_implementation"):
            super().test_moe_models_record_router_logits()

    def test_model_rope_scaling_frequencies(self):
        modules = TrineModel.named_modules
        renamed = lambda model: ((name.replace("positions", "rotary_emb"), module) for name, module in modules(model))  # noqa: E731
        with patch.object(TrineModel, "named_modules", renamed):
            super().test_model_rope_scaling_frequencies()


def conformance_class(case: Case) -> type[unittest.TestCase]:
    """Return the test class of one case."""
    ours = (Adapted,) if case.peer else ()
    distributed = DISTRIBUTED if case.distributed else ()
    attributes = {
        "__module__": __name__,
        "case": case,
        "model_tester": DecoderTester(case),
        "all_model_classes": case.classes[1:],
        # Otherwise skipped, unless the configuration's file has a copyright line of 2023 or later.
        "test_can_init_all_missing_weights_before_2023": True,
        # Models without rotary positions start with smaller gradients, which take longer to fall by nine tenths.
        "training_overfit_steps": 400,
    }
    cls = type(case.name, (*ours, ConfigurationTests, *SINGLE, *distributed, unittest.TestCase), attributes)
    for name in dir(cls):
        reason = reason_for(case, name) if name.startswith("test_") else None
        if reason and callable(getattr(cls, name)):
            setattr(cls, name, pytest.mark.xfail(reason=reason, strict=True)(in_one_piece(getattr(cls, name))))
    return cls


def in_one_piece(test: Callable) -> Callable:
    """Return the test without its division into subtests, whose failures do not count for an expected failure."""

    def run(self):
        with patch.object(self, "subTest", lambda *args, **kwargs: nullcontext()):
            test(self)

    return run


def test_the_library_lists_the_classes_by_name():
    """Without these entries the common tests make no labels and leave classes out, silently."""
    assert modeling_auto.MODEL_MAPPING_NAMES[TrineConfig.model_type] == TrineModel.__name__
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[TrineConfig.model_type] == TrineForCausalLM.__name__


KINDS = {
    "attention_types": ATTENTION_KINDS,
    "mlp_layer_types": FEED_FORWARD_KINDS,
    "position_type": POSITION_KINDS,
    "router_type": ROUTER_KINDS,
    "norm_type": NORM_TYPES,
    "norm_position": NORM_POSITIONS,
    "initializer": INITIALIZERS,
}


@pytest.mark.parametrize("field", KINDS)
def test_every_kind_occurs_in_a_case(field):
    values = [getattr(TrineConfig(**case.fields), field) for case in CASES.values() if case.peer]
    assert set(KINDS[field]) == {kind for value in values for kind in (value if isinstance(value, list) else [value])}


globals().update({name: conformance_class(case) for name, case in CASES.items()})
