"""The tests that our models skip or fail although their peer passes, each with its reason.

A row is a pattern of test names, a condition on the run, the reason, and the exceptions that the test may fail with;
a row without exceptions is about a skip. A test that a row names must not pass, nor fail in another way: a row that is
no longer needed makes the run fail, and so does a skip without a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from conformance.cases import PEERS, Run

from trine.configuration.kinds import ATTENTION_KINDS


@dataclass(frozen=True)
class Known:
    """One row: `test` is a shell pattern, `raises` the exceptions that it fails with, none if it is skipped."""

    test: str
    applies: Callable[[Run], bool]
    reason: str
    raises: tuple[type[Exception], ...] = ()


def kinds_of(run: Run) -> set[str]:
    return {kind for stack in run.case.stacks() for kind in stack.get("attention_types", ["full"])}


# Kinds that score no table of pairs return no weights.
WITHOUT_WEIGHTS = {kind for kind, row in ATTENTION_KINDS.items() if not row.has_pair_scores} - {"simplicial"}


def lacks_weights(run: Run) -> bool:
    """Whether some layer returns no weights."""
    return bool(kinds_of(run) & WITHOUT_WEIGHTS)


def has_no_weights(run: Run) -> bool:
    """Whether no layer returns weights."""
    return kinds_of(run) <= WITHOUT_WEIGHTS


def draws_buffers(run: Run) -> bool:
    return bool(kinds_of(run) & {"performer", "bigbird", "lsh"})


def begins_simplicial(run: Run) -> bool:
    return any(stack.get("attention_types", [""])[0] == "simplicial" for stack in run.case.stacks())


def keeps_states(run: Run) -> bool:
    """Whether a layer that has a cache keeps states that no compiled step writes into."""
    return bool(set(run.case.stacks()[-1].get("attention_types", ["full"])) & (WITHOUT_WEIGHTS | {"simplicial"}))


def reads_the_encoder(run: Run) -> bool:
    """Whether only the encoder of two stacks is read."""
    return run.case.shape == "encoder of two" and run.case.name not in PEERS


def is_recurrent(run: Run) -> bool:
    return run.case.shape == "recurrent"


def is_two_stacks(run: Run) -> bool:
    return len(run.case.stacks()) == 2


def has_layers(run: Run) -> bool:
    """Whether the case is a stack of our layers, or two."""
    return run.case.name not in PEERS and not is_recurrent(run)


def is_dense(run: Run) -> bool:
    return has_layers(run) and not any("sparse" in stack.get("mlp_layer_types", ()) for stack in run.case.stacks())


def is_not_rotary(run: Run) -> bool:
    return has_layers(run) and run.case.stacks()[-1].get("position_type", "rope") != "rope"


def rotates_whole_heads(run: Run) -> bool:
    rope_parameters = run.case.stacks()[-1].get("rope_parameters", {})
    return has_layers(run) and not is_not_rotary(run) and "partial_rotary_factor" not in rope_parameters


def is_relative(run: Run) -> bool:
    return all(stack.get("position_type") == "relative" for stack in run.case.stacks())


def is_of_two_sizes(run: Run) -> bool:
    return not run.case.fields.get("share_embeddings", True)


def makes_vectors(run: Run) -> bool:
    return run.role == "ForRetrieval"


def of(case: str, role: str) -> Callable[[Run], bool]:
    return lambda run: (run.case.name, run.role) == (case, role)


def several(tests: tuple[str, ...], applies: Callable[[Run], bool], reason: str, *raises: type[Exception]) -> tuple:
    """Rows that differ in their test only."""
    return tuple(Known(test, applies, reason, raises) for test in tests)


KNOWN = (
    *several(
        (
            "test_attention_outputs",
            "test_hidden_states_output",
            "test_retain_grad_hidden_states_attentions",
        ),
        reads_the_encoder,
        "the config is of two stacks, and the test looks for what both record; here, as in T5's head, one is read",
        AttributeError,
    ),
    Known(
        "test_eager_matches_sdpa_inference_*",
        reads_the_encoder,
        "the config is of two stacks, and the test gives the decoder something, which there is not",
        (ValueError,),
    ),
    Known(
        "test_output_router_logits_from_config",
        reads_the_encoder,
        "the test sets the field in the decoder's config, and the head reads that of the whole",
        (AssertionError,),
    ),
    Known(
        "test_capture_outputs_decorator",
        lambda run: is_dense(run) and run.case.shape == "decoder",
        "who asks a decoder without experts for router logits is told that there are none",
        (ValueError,),
    ),
    Known(
        "test_output_router_logits_from_config",
        lambda run: is_dense(run) and run.case.shape == "decoder",
        "who asks a decoder without experts for router logits is told that there are none",
        (ValueError,),
    ),
    Known(
        "test_output_router_logits_from_config",
        lambda run: is_dense(run) and not is_two_stacks(run),
        "a model without experts has no router logits",
        (AssertionError,),
    ),
    Known(
        "test_eager_matches_batched_and_grouped_inference*",
        is_dense,
        "the test asks the class, and one class serves models with and without experts",
        (AssertionError,),
    ),
    Known(
        "test_model_rope_*",
        is_not_rotary,
        "the case has no rotary positions, although the config has the field",
        (AttributeError, KeyError, TypeError),
    ),
    Known(
        "test_model_rope_with_partial_rotation",
        rotates_whole_heads,
        "the case rotates whole heads; another one rotates half of each",
    ),
    *several(
        (
            "test_ep_*",
            "test_fsdp2_expert_parallel_*",
            "test_hsdp_grad_accumulation_vs_single_device_2_expert_parallel",
        ),
        is_dense,
        "a model without experts has no experts to spread",
    ),
    Known(
        "test_retain_grad_hidden_states_attentions",
        begins_simplicial,
        "weights of pairs are returned summed over either key, and the output is not computed from these sums",
        (AssertionError,),
    ),
    Known(
        "test_attention_outputs",
        lambda run: is_two_stacks(run) and begins_simplicial(run),
        "the test counts the outputs, to which simplicial layers add the weights of their second keys",
        (AssertionError,),
    ),
    Known(
        "test_init_weights_can_init_buffers",
        draws_buffers,
        "random features, blocks and directions are buffers, and two models draw different ones",
        (AssertionError,),
    ),
    Known(
        "test_attention_outputs",
        lacks_weights,
        "layers that score no table of pairs have no weights to return",
        (AssertionError,),
    ),
    Known(
        "test_retain_grad_hidden_states_attentions",
        has_no_weights,
        "layers that score no table of pairs have no weights to return",
        (IndexError,),
    ),
    Known("test_tp_generation_quantized", has_layers, "torchao, which quantises, is not installed"),
    *several(
        ("test_tp_plan_matches_params", "test_tied_head_has_a_tp_plan_entry"),
        is_relative,
        "relative positions have no tensor-parallel plan: each process would need the bias of its own heads only",
    ),
    *several(
        ("test_reverse_loading_mapping", "test_can_load_from_already_mapped_keys"),
        lambda run: "Mixtral" in run.case.peers,
        "checkpoints hold the experts fused, as the library computes with them, so loading converts nothing",
    ),
    Known(
        "test_config_composite",
        is_two_stacks,
        "both stacks have one class, and the test, which loads it from the whole, finds the encoder's twice",
        (AssertionError,),
    ),
    Known(
        "test_can_capture_specific_layers_hidden_states",
        lambda run: is_two_stacks(run) and not reads_the_encoder(run),
        "the test knows hidden states of one stack only",
    ),
    Known(
        "test_sdpa_can_dispatch_composite_models",
        is_two_stacks,
        "the test is about towers for images or sound",
    ),
    *several(
        ("test_keep_in_fp32_modules", "test_keep_in_fp32_modules_exist"),
        lambda run: is_two_stacks(run) or is_recurrent(run),
        "T5 keeps a projection in float32; ours keep none, as Llama and BERT do not",
    ),
    Known(
        "test_moe_models_record_router_logits",
        lambda run: is_two_stacks(run) and run.model_class.can_generate(),
        "router logits of two stacks have transformers' names for two stacks, which the test does not know",
        (AssertionError,),
    ),
    Known(
        "test_hidden_states_output",
        is_of_two_sizes,
        "the test expects that both stacks have one hidden size",
        (AssertionError,),
    ),
    Known(
        "test_inputs_embeds",
        lambda run: is_of_two_sizes(run) and not reads_the_encoder(run),
        "the test embeds the target's tokens by the source's table",
        (IndexError,),
    ),
    Known(
        "test_inputs_embeds_matches_input_ids",
        lambda run: is_of_two_sizes(run) and run.role == "Model",
        "the test embeds the target's tokens by the source's table",
        (IndexError,),
    ),
    Known(
        "test_tied_weights_keys",
        is_of_two_sizes,
        "the class names the weights that may be tied; `share_embeddings` and not `tie_word_embeddings` decides",
        (AssertionError,),
    ),
    *several(
        (
            "test_attention_outputs",
            "test_attn_implementation_composite_models",
            "test_can_set_attention_dynamically",
            "test_custom_4d_attention_mask",
            "test_eager_matches_sdpa_*",
            "test_sdpa_can_dispatch_*",
            "test_sliding_window_mask",
        ),
        is_recurrent,
        "an LSTM has no attention whose kernel could be chosen",
    ),
    *several(
        (
            "test_generate_compilation_all_outputs",
            "test_generate_compile_model_forward_fullgraph",
            "test_static_cache_no_recompile_with_smaller_length",
        ),
        keeps_states,
        "caches of states are not compiled yet; the test asks the class, and only a model can tell",
        AssertionError,
    ),
    Known(
        "test_custom_4d_attention_mask",
        lambda run: keeps_states(run) and not is_two_stacks(run),
        "kinds that make no table of all pairs refuse a mask of pairs by name",
        (ValueError,),
    ),
    Known(
        "test_custom_4d_attention_mask",
        lambda run: "sliding" in kinds_of(run) and not is_two_stacks(run),
        "the test leaves out configs with a window, which Mixtral's of the run has not",
    ),
    Known(
        "test_custom_4d_attention_mask",
        lambda run: is_two_stacks(run) and run.model_class.can_generate(),
        "the test gives token ids of one stack; it leaves T5 out, which takes no positions",
        (ValueError,),
    ),
    Known(
        "test_generate_without_input_ids",
        of("T5", "ForConditionalGeneration"),
        "T5 has no token that begins a text, and the test asks for it",
        (AttributeError,),
    ),
    *several(
        ("test_training", "test_training_gradient_checkpointing*"),
        makes_vectors,
        "a loss compares queries with documents, which `RetrievalTrainer` does: the model has no labels",
        AttributeError,
    ),
    Known(
        "test_inputs_embeds",
        makes_vectors,
        "embeddings do not tell special tokens, which have no weight, from others",
        (ValueError,),
    ),
    Known(
        "test_model_base_model_prefix",
        of("T5", "ForConditionalGeneration"),
        "T5's head is on two bare stacks",
        (AssertionError,),
    ),
    Known(
        "test_inputs_embeds",
        of("T5", "ForSequenceClassification"),
        "T5's classifier reads token ids only",
        (NotImplementedError,),
    ),
)


def row_for(run: Run, test: str) -> Known | None:
    """Return the row that says why `test` may skip or fail for `run`, or None."""
    return next((known for known in KNOWN if fnmatch(test, known.test) and known.applies(run)), None)
