"""How the modules of a config are spread over processes: plans in the library's words."""


def expert_weight(config) -> str:
    """The weight that projects into the experts."""
    return "gate_up_proj" if config.gated_mlp else "up_proj"


def dense_prefixes(config) -> list[str]:
    """Where, within `mlp`, the config has dense feed-forwards."""
    prefixes = [""] if "dense" in config.mlp_layer_types else []
    has_shared = "sparse" in config.mlp_layer_types and config.num_shared_experts > 0
    return [*prefixes, "shared_experts."] if has_shared else prefixes


def tensor_parallel_plan(config) -> dict[str, str] | None:
    """Module pattern to style, for the modules that the config has.

    None for `relative` positions: every process would need the bias of its own heads only.
    """
    if config.position_type == "relative":
        return None
    plan = {
        "embed_tokens": "embedding_rowwise",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    }
    if config.qk_norm:
        plan["layers.*.self_attn.q_norm"] = "replicated_with_grad_allreduce"
    if set(config.attention_types) != {"lsh"}:  # whose keys are the queries
        plan["layers.*.self_attn.k_proj"] = "colwise"
        if config.qk_norm:
            plan["layers.*.self_attn.k_norm"] = "replicated_with_grad_allreduce"
    if "simplicial" in config.attention_types:
        plan["layers.*.self_attn.second_k_proj"] = "colwise"
        plan["layers.*.self_attn.second_v_proj"] = "colwise"
        if config.simplicial_offset_bias:
            plan["layers.*.self_attn.offset_bias"] = "colwise"  # by heads
        if config.qk_norm:
            plan["layers.*.self_attn.second_k_norm"] = "replicated_with_grad_allreduce"
    for prefix in dense_prefixes(config):
        for name in ("gate_proj", "up_proj") if config.gated_mlp else ("up_proj",):
            plan[f"layers.*.mlp.{prefix}{name}"] = "colwise"
        plan[f"layers.*.mlp.{prefix}down_proj"] = "rowwise"
    if "sparse" in config.mlp_layer_types and not config.mlp_bias:  # a split sum would add the biases more than once
        plan[f"layers.*.mlp.experts.{expert_weight(config)}"] = "packed_colwise" if config.gated_mlp else "colwise"
        plan["layers.*.mlp.experts.down_proj"] = "rowwise"
        plan["layers.*.mlp.experts"] = "moe_tp_experts"
    return plan


def expert_parallel_plan(config) -> dict[str, str] | None:
    """Module pattern to style for spreading experts, or None where there are none."""
    if "sparse" not in config.mlp_layer_types:
        return None
    weights = [expert_weight(config), "down_proj"]
    if config.mlp_bias:
        weights += [f"{name}_bias" for name in weights]
    plan = {f"layers.*.mlp.experts.{name}": "grouped_gemm" for name in weights}
    return {**plan, "layers.*.mlp.experts": "ep_dispatch_experts"}
