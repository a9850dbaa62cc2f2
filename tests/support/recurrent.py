"""Small recurrent models for the tests, and loops in float64, gate by gate, that say what they must compute."""

import torch

from trine.configuration.configuration_trine_recurrent import TrineRecurrentConfig
from trine.modeling.modeling_trine_recurrent import TrineRecurrentForConditionalGeneration


PAD, BOS, EOS = 0, 1, 2
SIZES = {"vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 2}
TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
# Every way in which a model can be built.
VARIANTS = {
    "dot": {"attention": "dot"},
    "none": {"attention": "none"},
    "dot, one way": {"attention": "dot", "bidirectional_encoder": False},
    "none, one way": {"attention": "none", "bidirectional_encoder": False},
    "one layer": {"num_hidden_layers": 1, "tie_word_embeddings": False},
}


def tiny_config(**fields) -> TrineRecurrentConfig:
    return TrineRecurrentConfig(**{**SIZES, **TOKENS, **fields})


def tiny_model(name: str = "dot", dtype=torch.float64, seed: int = 0, **fields):
    """An evaluation-mode model in which every parameter, biases too, is random and large enough to matter."""
    torch.manual_seed(seed)
    model = TrineRecurrentForConditionalGeneration(tiny_config(**{**VARIANTS[name], **fields})).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def pad_rows(rows: list[torch.Tensor], side: str = "right", extra: int = 0) -> dict[str, torch.Tensor]:
    """Ids and mask of rows of different lengths. Padding holds a real token's id, which must not matter."""
    width = max(map(len, rows)) + extra
    ids, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = {"right": slice(len(row)), "left": slice(width - len(row), width)}[side]
        ids[index, place], mask[index, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


# The loops. `weights` maps names of the state dict to float64 tensors; a sequence is a list of vectors.


def leaves(model) -> dict[str, torch.Tensor]:
    """Copies of the parameters that collect gradients."""
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    if model.config.tie_word_embeddings:
        copies["lm_head.weight"] = copies["model.encoder.embed_tokens.weight"]
    return copies


def lstm(weights: dict, prefix: str, suffix: str, inputs: list, hidden, cell):
    """Hochreiter and Schmidhuber 1997 with a forget gate; PyTorch stacks the gates in the order i, f, g, o."""
    w_input, w_hidden, b_input, b_hidden = (
        weights[f"{prefix}.lstm.{name}_l0{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    size, outputs = w_hidden.shape[1], []
    for x in inputs:
        gates = []
        for gate in range(4):
            rows = slice(gate * size, (gate + 1) * size)
            gates.append(w_input[rows] @ x + b_input[rows] + w_hidden[rows] @ hidden + b_hidden[rows])
        i, f, g, o = gates
        cell = cell / (1 + torch.exp(-f)) + torch.tanh(g) / (1 + torch.exp(-i))
        hidden = torch.tanh(cell) / (1 + torch.exp(-o))
        outputs.append(hidden)
    return outputs, hidden, cell


def encode(config, weights: dict, source: torch.Tensor):
    """States of the last layer, and hidden state and cell that each layer ends in."""
    states, finals = [weights["model.encoder.embed_tokens.weight"][token] for token in source], []
    suffixes = ["", "_reverse"] if config.bidirectional_encoder else [""]
    zero = torch.zeros(config.hidden_size // len(suffixes), dtype=torch.float64)
    for layer in range(config.num_hidden_layers):
        outputs, hiddens, cells = [], [], []
        for suffix in suffixes:
            direction = -1 if suffix else 1
            read, hidden, cell = lstm(
                weights, f"model.encoder.layers.{layer}", suffix, states[::direction], zero, zero
            )
            outputs.append(read[::direction])
            hiddens.append(hidden)
            cells.append(cell)
        states = [torch.cat(pair) for pair in zip(*outputs, strict=True)]
        finals.append((torch.cat(hiddens), torch.cat(cells)))
    return states, finals


def predict(config, weights: dict, source: torch.Tensor, target: torch.Tensor):
    """Logits after each token of `target`, and the attention weights (target, source), None without attention."""
    encoder_states, finals = encode(config, weights, source)
    summary = finals[-1][0]
    states = [weights["model.encoder.embed_tokens.weight"][token] for token in target]
    if config.attention == "none":
        states = [torch.cat([state, summary]) for state in states]
    for layer in range(config.num_hidden_layers):
        states, _, _ = lstm(weights, f"model.decoder.layers.{layer}", "", states, *finals[layer])
    logits, attentions = [], []
    for state in states:
        context = summary
        if config.attention == "dot":
            powers = torch.exp(torch.stack([torch.dot(state, other) for other in encoder_states]))
            attentions.append(powers / powers.sum())
            context = sum(share * other for share, other in zip(attentions[-1], encoder_states, strict=True))
        output = torch.tanh(weights["model.decoder.combine.weight"] @ torch.cat([context, state]))
        logits.append(weights["lm_head.weight"] @ output)
    return torch.stack(logits), torch.stack(attentions) if attentions else None
