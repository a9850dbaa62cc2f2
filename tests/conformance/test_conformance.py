"""Runs the library's common model tests on every case of the table in cases.py."""

import unittest

from transformers.models.auto import modeling_auto

from conformance.cases import CASES, Case, DecoderTester
from conformance.upstream import load
from trine import TrineConfig, TrineForCausalLM, TrineModel


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


def conformance_class(case: Case) -> type[unittest.TestCase]:
    """Return the test class of one case."""
    bases = (ConfigurationTests, *SINGLE, *(DISTRIBUTED if case.distributed else ()), unittest.TestCase)
    attributes = {
        "__module__": __name__,
        "case": case,
        "model_tester": DecoderTester(case),
        "all_model_classes": case.classes[1:],
        # Otherwise skipped, unless the configuration's file has a copyright line of 2023 or later.
        "test_can_init_all_missing_weights_before_2023": True,
    }
    return type(case.name, bases, attributes)


def test_the_library_lists_the_classes_by_name():
    """Without these entries the common tests make no labels and leave classes out, silently."""
    assert modeling_auto.MODEL_MAPPING_NAMES[TrineConfig.model_type] == TrineModel.__name__
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[TrineConfig.model_type] == TrineForCausalLM.__name__


globals().update({name: conformance_class(case) for name, case in CASES.items()})
