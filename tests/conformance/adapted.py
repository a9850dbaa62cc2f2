"""The library's test mixins, and what ours need before they can run them."""

from unittest.mock import patch

import torch
from conformance.upstream import load


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
# Without a GPU every seed for it is kept with a stack trace, which takes a tenth of the time.
if not torch.cuda.is_available():
    torch.cuda.manual_seed_all = lambda seed: None
# One test formats every weight fourteen times, for messages that are not shown.
torch.set_printoptions(threshold=4, edgeitems=1)


def set_epsilons(config) -> None:
    """Set the epsilons of a config to 1. The library's own helper adds the names that any other model has for them.

    A TrineConfig with unknown fields cannot be loaded again.
    """
    for nested in common._get_nested_configs(config):
        for name in vars(nested):
            if name.endswith(("_eps", "_epsilon")):
                setattr(nested, name, 1.0)


def output_tensors(outputs) -> list[torch.Tensor]:
    """Return what a head computes. The library's own function does not know the names of BERT's pretraining."""
    named = {name: value for name, value in outputs.items() if name.endswith(("logits", "last_hidden_state"))}
    return [value for value in named.values() if isinstance(value, torch.Tensor)]


for module in (common, load("generation.test_utils"), load("exporters.test_export")):
    module.set_config_for_less_flaky_test = set_epsilons
common._get_output_tensors = output_tensors


class Adapted:
    """What any model of ours needs: a shorter training, and one that suits an encoder-decoder."""

    # Half of the steps that the library takes, each three times as long.
    training_overfit_steps, training_overfit_learning_rate = 150, 3e-3

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        """Lets an encoder-decoder read the first token, as in the generation that follows, and predict the others."""
        batch = super()._create_text_training_batch(batch_size, seq_length + 1, vocab_size)
        tokens = batch["input_ids"]
        if not self.is_encoder_decoder:
            return {"input_ids": tokens[:, :-1], "labels": tokens[:, :-1]}
        source_mask = torch.zeros_like(tokens[:, 1:])
        source_mask[:, 0] = 1
        return {"input_ids": tokens[:, :-1], "attention_mask": source_mask, "labels": tokens[:, 1:]}


class AdaptedStack(Adapted):
    """Tests that find their subject by a name or a text, and would be skipped; and what they take from the config."""

    def _get_tiny_config(self):
        # The load-balancing loss of a batch is not the mean of the losses of its parts, on which each process works.
        config_class, fields = super()._get_tiny_config()
        return config_class, fields | {"router_aux_loss_coef": 0.0}

    def test_moe_models_record_router_logits(self):
        with patch.object(common.inspect, "getsource", return_value="@use_experts_implementation"):
            super().test_moe_models_record_router_logits()

    def test_sdpa_can_dispatch_non_composite_models(self):
        with patch.object(type(self), "_is_composite", False):
            super().test_sdpa_can_dispatch_non_composite_models()

    def test_model_rope_scaling_frequencies(self):
        model_class = self.run_of.model_class
        modules = model_class.named_modules
        renamed = lambda model: ((name.replace("positions", "rotary_emb"), module) for name, module in modules(model))  # noqa: E731
        with patch.object(model_class, "named_modules", renamed):
            super().test_model_rope_scaling_frequencies()


class AdaptedRecurrent(Adapted):
    """An LSTM has no attention kernels to choose, and learns with larger steps."""

    has_attentions = False
    training_overfit_learning_rate = 1e-2


ADAPTED = {
    "decoder": AdaptedStack,
    "encoder": AdaptedStack,
    "encoder-decoder": AdaptedStack,
    "encoder of two": AdaptedStack,
    "recurrent": AdaptedRecurrent,
}


class EncoderTensorParallel(tensor_parallel.TensorParallelTesterMixin):
    """The tests of tensor parallelism without those that generate."""

    test_tp_generation = test_tp_generation_quantized = None


class ShardsOfExperts(fsdp.FSDPTesterMixin):
    """The tests of shards without those that know no experts, but for one that compares training with and without."""

    test_fsdp2_bf16_training = test_fsdp2_save_load_dcp = test_hsdp_save_load = test_hsdp_save_load_dcp = None
    test_hsdp_grad_accumulation_vs_single_device_0_replicate_and_shard = None
    test_hsdp_grad_accumulation_vs_single_device_1_replicate_only = None


DISTRIBUTED = {
    "tensors": tensor_parallel.TensorParallelTesterMixin,
    "tensors of an encoder": EncoderTensorParallel,
    "experts": expert_parallel.ExpertParallelTesterMixin,
    "shards": fsdp.FSDPTesterMixin,
    "shards of experts": ShardsOfExperts,
}

# What heads have no part in, or what is of the whole class and not of what its trunk is made of: tests that each class
# runs in its first case, and each case with its bare model.
OF_THE_TRUNK = (
    "test_all_tensors_are_parameter_or_buffer",
    "test_attention_outputs",
    "test_attn_implementation_*",
    "test_bc_torch_dtype",
    "test_can_capture_specific_layers_hidden_states",
    "test_can_set_attention_dynamically*",
    "test_can_use_safetensors",
    "test_cannot_load_with_meta_device_context_manager",
    "test_capture_outputs_decorator",
    "test_config*",
    "test_custom_4d_attention_mask",
    "test_determinism",
    "test_eager_matches_*",
    "test_enable_input_require_grads*",
    "test_feed_forward_chunking",
    "test_flash_*",
    "test_flex_*",
    "test_from_pretrained_no_checkpoint",
    "test_gradient_checkpointing_*",
    "test_hidden_states_output",
    "test_init_weights_can_init_buffers",
    "test_internal_model_config_and_subconfig_are_same",
    "test_load_contiguous_weights",
    "test_model_rope_*",
    "test_peft_gradient_checkpointing_enable_disable",
    "test_sdpa_can_*",
    "test_sliding_window_mask",
    "test_torch_save_load",
    "test_training_overfit",
)
