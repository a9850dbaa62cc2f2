"""Runs the library's common model tests on every class of every case in the table of cases.py."""

import unittest
from contextlib import nullcontext
from fnmatch import fnmatch

import conformance.exporting  # noqa: F401  adapts the tests of exporters
import pytest
import torch
import transformers
from conformance.adapted import ADAPTED, DISTRIBUTED, OF_THE_TRUNK, common, configuration, tensor_parallel, training
from conformance.cases import OURS, PEERS, RUNS, Run
from conformance.generation import GENERATION
from conformance.known import row_for
from conformance.peers import TESTED
from conformance.testers import SIZES, TESTERS

from trine import FAMILIES
from trine.configuration.configuration_trine_recurrent import RECURRENT_ATTENTIONS
from trine.configuration.encoder_decoder import DecoderSize
from trine.configuration.kinds import (
    ATTENTION_KINDS,
    FEED_FORWARD_KINDS,
    INITIALIZERS,
    NORM_POSITIONS,
    NORM_TYPES,
    POOLINGS,
    POSITION_KINDS,
    ROUTER_KINDS,
)
from trine.modeling.heads.table import OTHER_HEADS


LANGUAGE_MODELS = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")


class Common(common.ModelTesterMixin):
    """What every class is tested with: the common tests, those of its configuration, and those of its plans."""

    test_tp_plan_shards_input_embeddings = (
        tensor_parallel.TensorParallelTesterMixin.test_tp_plan_shards_input_embeddings
    )
    test_moe_parallel_plans_shard_experts = (
        tensor_parallel.TensorParallelTesterMixin.test_moe_parallel_plans_shard_experts
    )
    # Otherwise skipped, unless the configuration's file has a copyright line of 2023 or later.
    test_can_init_all_missing_weights_before_2023 = True

    def subTest(self, *args, **kwargs):
        """Runs subtests as parts of their test, so that a skip or an expected failure in one is the test's."""
        return nullcontext()

    def config_tester(self) -> configuration.ConfigTester:
        config_class = self.run_of.case.config_class
        # Those of a decoder are given to it: the whole has them to be read.
        taken = [name for name in SIZES if not isinstance(getattr(config_class, name, None), DecoderSize)]
        sizes = [name for name in taken if hasattr(config_class(), name)]
        fields = self.model_tester.config_fields()
        return configuration.ConfigTester(self, config_class=config_class, common_properties=sizes, **fields)

    def test_config(self):
        tester = self.config_tester()
        tester.create_and_test_config_from_and_save_pretrained_composite = lambda: None
        tester.run_common_tests()

    def test_config_composite(self):
        self.config_tester().create_and_test_config_from_and_save_pretrained_composite()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Adds the labels of pretraining, as BERT's own tests do."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and self.run_of.role == "ForPreTraining":
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
            inputs["next_sentence_label"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs


def conformance_class(run: Run) -> type[unittest.TestCase]:
    """Return the test class of one model class in one case."""
    case, is_language_model = run.case, run.role in LANGUAGE_MODELS
    bases = [
        *((ADAPTED[case.shape],) if case in OURS else ()),
        Common,
        *((GENERATION[case.shape],) if run.model_class.can_generate() else ()),
        *((training.TrainingTesterMixin,) if is_language_model and case in OURS else ()),
        *(DISTRIBUTED[name] for name in (case.distributed if is_language_model else ())),
        unittest.TestCase,
    ]
    attributes = {
        "__module__": __name__,
        "run_of": run,
        "model_tester": TESTERS[case.shape](run),
        "all_model_classes": (run.model_class,),
        "is_encoder_decoder": case.shape in ("encoder-decoder", "recurrent"),
        "_is_composite": len(case.stacks()) > 1,
    }
    cls = type(run.name, tuple(bases), attributes)
    for name in dir(cls):
        row = row_for(run, name) if name.startswith("test_") else None
        if run.repeats_its_trunk and any(fnmatch(name, pattern) for pattern in OF_THE_TRUNK):
            setattr(cls, name, None)
        elif row and callable(getattr(cls, name)):
            mark = pytest.mark.xfail(reason=row.reason, raises=row.raises, strict=True)
            setattr(cls, name, mark(getattr(cls, name)))
    return cls


@pytest.mark.parametrize("config_class, base_model, heads", FAMILIES)
def test_every_registered_class_is_tested(config_class, base_model, heads):
    tested = {run.model_class for run in RUNS.values() if run.case.config_class is config_class}
    others = {head for head in OTHER_HEADS if head.config_class is config_class}
    assert tested == {base_model, *heads.values(), *others}


@pytest.mark.parametrize("config_class, base_model, heads", FAMILIES)
def test_the_library_lists_the_classes_by_name(config_class, base_model, heads):
    """Without these entries the common tests make no labels and leave classes out, silently."""
    for auto_class, model_class in {"AutoModel": base_model, **heads}.items():
        names = getattr(transformers, auto_class)._model_mapping._model_mapping
        assert names[config_class.model_type] == model_class.__name__


def test_every_class_of_a_peer_has_a_counterpart():
    roles = {(peer, run.role) for run in RUNS.values() for peer in run.case.peers}
    assert {(name, Run(peer, cls).role) for name, peer in PEERS.items() for cls in peer.classes} <= roles


KINDS = {
    "attention": RECURRENT_ATTENTIONS,
    "attention_types": ATTENTION_KINDS,
    "mlp_layer_types": FEED_FORWARD_KINDS,
    "position_type": POSITION_KINDS,
    "router_type": ROUTER_KINDS,
    "norm_type": NORM_TYPES,
    "norm_position": NORM_POSITIONS,
    "initializer": INITIALIZERS,
    "classifier_pooling": POOLINGS,
}


@pytest.mark.parametrize("field", KINDS)
def test_every_kind_occurs_in_a_case(field):
    configs = [Run(case, case.classes[0]) for case in OURS]
    stacks = [stack for run in configs for stack in TESTERS[run.case.shape](run).stacks()]
    values = [getattr(stack, field) for stack in stacks if hasattr(stack, field)]
    assert set(KINDS[field]) == {kind for value in values for kind in (value if isinstance(value, list) else [value])}


globals().update({name: conformance_class(run) for name, run in TESTED.items()})
