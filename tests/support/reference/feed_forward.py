"""Feed-forwards, dense and sparse, and routers."""

import math

import torch
from support.reference.weights import Weights, linear, softmax


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": gelu,
    "gelu_new": gelu_new,
    "relu": lambda x: x * (x > 0),
}


def mlp(config, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Vaswani et al. 2017, equation 2; gated: Shazeer 2020, arXiv 2002.05202, equation 6."""
    activate = ACTIVATIONS[config.hidden_act]
    up = linear(x, weights["up_proj"])
    inner = activate(linear(x, weights["gate_proj"])) * up if config.gated_mlp else activate(up)
    return linear(inner, weights["down_proj"])


def softmax_scores(config, weights: Weights, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Jiang et al. 2024, arXiv 2401.04088: scores, and what the choice is made by."""
    scores = softmax(logits)
    return scores, scores


def sigmoid_scores(config, weights: Weights, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """DeepSeek-AI 2024, arXiv 2412.19437, equations 15 and 16."""
    scores = 1 / (1 + torch.exp(-logits))
    return scores, scores + weights["e_score_correction_bias"]


ROUTERS = {"softmax": softmax_scores, "sigmoid": sigmoid_scores}


def route(config, weights: Weights, token: torch.Tensor) -> dict[int, torch.Tensor]:
    """The experts that `token` visits, each with its weight."""
    scores, preferences = ROUTERS[config.router_type](config, weights, weights["weight"] @ token)
    ranking = sorted(range(len(scores)), key=lambda expert: -preferences[expert].item())
    chosen = ranking[: config.num_experts_per_tok]
    total = sum(scores[expert] for expert in chosen) if config.norm_topk_prob else 1.0
    return {expert: config.routed_scaling_factor * scores[expert] / total for expert in chosen}


def expert_output(config, weights: Weights, expert: int, token: torch.Tensor) -> torch.Tensor:
    activate = ACTIVATIONS[config.hidden_act]

    def project(name: str, x: torch.Tensor) -> torch.Tensor:
        bias = weights[f"{name}_bias"][expert] if config.mlp_bias else 0.0
        return weights[name][expert] @ x + bias

    if config.gated_mlp:
        inner = project("gate_up_proj", token)
        width = len(inner) // 2
        inner = activate(inner[:width]) * inner[width:]
    else:
        inner = activate(project("up_proj", token))
    return project("down_proj", inner)


def mixture(config, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Shazeer et al. 2017, arXiv 1701.06538, equation 1; shared experts: Dai et al. 2024, arXiv 2401.06066."""
    rows = []
    for token in x:
        visits = route(config, weights["gate"], token)
        rows.append(sum(w * expert_output(config, weights["experts"], e, token) for e, w in visits.items()))
    output = torch.stack(rows)
    return output + mlp(config, weights["shared_experts"], x) if config.num_shared_experts else output


FEED_FORWARDS = {"dense": mlp, "sparse": mixture}
