"""Plans that spread the modules of a model over processes, in the form that transformers reads."""

from .choices import Choices
from .kinds import ATTENTION_KINDS, POSITION_KINDS


def dense_plan(config, prefix: str = "") -> dict[str, str]:
    """The tensor-parallel plan of a dense feed-forward, below the prefix within `mlp`."""
    names = ("gate_proj", "up_proj") if config.gated_mlp else ("up_proj",)
    plan = {f"layers.*.mlp.{prefix}{name}": "colwise" for name in names}
    return {**plan, f"layers.*.mlp.{prefix}down_proj": "rowwise"}


def expert_weight(config) -> str:
    """The name of the weight that projects into the experts."""
    return "gate_up_proj" if config.gated_mlp else "up_proj"


def sparse_plan(config) -> dict[str, str]:
    """The tensor-parallel plan of experts, and of shared experts where there are any."""
    plan = dense_plan(config, "shared_experts.") if config.num_shared_experts > 0 else {}
    if not config.mlp_bias:  # a split sum would add the biases more than once
        plan[f"layers.*.mlp.experts.{expert_weight(config)}"] = "packed_colwise" if config.gated_mlp else "colwise"
        plan["layers.*.mlp.experts.down_proj"] = "rowwise"
        plan["layers.*.mlp.experts"] = "moe_tp_experts"
    return plan


def key_plan(config) -> dict[str, str]:
    """The plan of key projections; `lsh` has none, since its keys are its queries."""
    plan = {"layers.*.self_attn.k_proj": "colwise"}
    if config.qk_norm:
        plan["layers.*.self_attn.k_norm"] = "replicated_with_grad_allreduce"
    return plan


def simplicial_plan(config) -> dict[str, str]:
    """The plan of first and second keys and of second values in 2-simplicial attention."""
    plan = {
        **key_plan(config),
        "layers.*.self_attn.second_k_proj": "colwise",
        "layers.*.self_attn.second_v_proj": "colwise",
    }
    if config.simplicial_offset_bias:
        plan["layers.*.self_attn.offset_bias"] = "colwise"  # by heads
    if config.qk_norm:
        plan["layers.*.self_attn.second_k_norm"] = "replicated_with_grad_allreduce"
    return plan


# Of the kinds whose keys have other projections.
KEY_PLANS = Choices(
    "attention_types",
    {
        "simplicial": simplicial_plan,
        "lsh": lambda config: {},
    },
)
MLP_PLANS = Choices("mlp_layer_types", {"dense": dense_plan, "sparse": sparse_plan})


def tensor_parallel_plan(config) -> dict[str, str] | None:
    """Module pattern to style, for the modules that the config has.

    None for positions that add a bias, as every process would need the bias of its own heads only, and for attention
    of somebody's own, whose weights nobody knows how to split, nor a projection of patches.
    """
    is_sharded = all(ATTENTION_KINDS[kind].sharded for kind in config.attention_types)
    if POSITION_KINDS[config.position_type].adds_bias or not is_sharded or config.input_type != "tokens":
        return None
    plan = {
        "embed_tokens": "embedding_rowwise",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    }
    if config.qk_norm:
        plan["layers.*.self_attn.q_norm"] = "replicated_with_grad_allreduce"
    for kind in dict.fromkeys(config.attention_types):
        plan |= KEY_PLANS.get(kind, key_plan)(config)
    for kind in dict.fromkeys(config.mlp_layer_types):
        plan |= MLP_PLANS[kind](config) if kind in MLP_PLANS else {}
    return plan


def sparse_expert_plan(config) -> dict[str, str]:
    """The expert-parallel plan: each process holds some of the experts, whole."""
    weights = [expert_weight(config), "down_proj"]
    if config.mlp_bias:
        weights += [f"{name}_bias" for name in weights]
    plan = {f"layers.*.mlp.experts.{name}": "grouped_gemm" for name in weights}
    return {**plan, "layers.*.mlp.experts": "ep_dispatch_experts"}


EXPERT_PLANS = Choices("mlp_layer_types", {"sparse": sparse_expert_plan})
