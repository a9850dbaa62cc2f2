"""Every mechanism of Trine as loops in float64, straight from the papers: the truth that the package is compared with.

Nothing here imports the package. One sequence is computed at a time, without batches, padding, packing or caches, so
that those cannot be wrong here; the tests compare each row or segment of a batch with the sequence by itself.
Functions read a config's plain values and a model's weights by their names in the state dict. All of it is
differentiable, so gradients are compared too.
"""

# Shapes: N tokens, H query heads, G key-value heads, D head size, E experts, V vocabulary.

import cmath
import math
from functools import partial

import torch


class Weights:
    """The part of a state dict below a prefix, in float64: `weights["mlp"]["up_proj.weight"]`."""

    def __init__(self, tensors: dict[str, torch.Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str):
        if self.prefix + name in self.tensors:
            return self.tensors[self.prefix + name].double()
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return any(key == self.prefix + name or key.startswith(f"{self.prefix}{name}.") for key in self.tensors)


def linear(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """`y = W x + b` (b where there is one) for each row of `x`."""
    y = torch.stack([weights["weight"] @ row for row in x])
    return y + weights["bias"] if "bias" in weights else y


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """`exp(s_j) / sum_k exp(s_k)` of a vector, shifted by its largest entry, which cancels."""
    powers = torch.exp(scores - scores.max())
    return powers / powers.sum()


# Norms


def rmsnorm(x: torch.Tensor, weights: Weights, eps: float) -> torch.Tensor:
    """Zhang and Sennrich 2019, arXiv 1910.07467, equation 4."""
    return torch.stack([row / torch.sqrt((row * row).mean() + eps) for row in x]) * weights["weight"]


def layernorm(x: torch.Tensor, weights: Weights, eps: float) -> torch.Tensor:
    """Ba et al. 2016, arXiv 1607.06450, equation 4."""
    rows = []
    for row in x:
        centred = row - row.mean()
        rows.append(centred / torch.sqrt((centred * centred).mean() + eps))
    y = torch.stack(rows) * weights["weight"]
    return y + weights["bias"] if "bias" in weights else y


NORMS = {"rmsnorm": rmsnorm, "layernorm": layernorm}


# Positions: each may add to the embeddings, rotate a head's vector, or bias a score.


class NoPositions:
    def __init__(self, config, weights: Weights):
        self.config, self.weights = config, weights

    def add(self, vector: torch.Tensor, position: int) -> torch.Tensor:
        return vector

    def rotate(self, vector: torch.Tensor, position: int) -> torch.Tensor:
        return vector

    def biases(self, head: int, query: int, keys: list[int]) -> torch.Tensor:
        return torch.zeros(len(keys), dtype=torch.float64)

    def of_layers(self, layer_type: str) -> "NoPositions":
        return self


class SinusoidalPositions(NoPositions):
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.5."""

    def add(self, vector, position):
        size = len(vector)
        waves = []
        for i in range(size // 2):
            angle = position / 10000 ** (2 * i / size)
            waves += [math.sin(angle), math.cos(angle)]
        return vector + torch.tensor(waves, dtype=torch.float64)


class LearnedPositions(NoPositions):
    """Devlin et al. 2018, arXiv 1810.04805."""

    def add(self, vector, position):
        return vector + self.weights["embed_positions.weight"][position]


class RotaryPositions(NoPositions):
    """Su et al. 2021, arXiv 2104.09864, equation 13: features i and i + d/2 are one complex number, multiplied with
    `exp(1j * position * base^(-2i/d))`. Only the first part of a head is rotated if `partial_rotary_factor` says so.
    The parameters are one set, or one for each layer type.
    """

    def __init__(self, config, weights, parameters=None):
        super().__init__(config, weights)
        self.parameters = parameters or config.rope_parameters

    def of_layers(self, layer_type):
        return RotaryPositions(self.config, self.weights, self.parameters.get(layer_type, self.parameters))

    def rotate(self, vector, position):
        base = self.parameters["rope_theta"]
        half = int(len(vector) * self.parameters.get("partial_rotary_factor", 1.0)) // 2
        turns = torch.tensor([cmath.exp(1j * position * base ** (-i / half)) for i in range(half)])
        turned = torch.complex(vector[:half], vector[half : 2 * half]) * turns
        return torch.cat([turned.real, turned.imag, vector[2 * half :]])


def t5_bucket(offset: int, num_buckets: int, max_distance: int, is_causal: bool) -> int:
    """Raffel et al. 2019, arXiv 1910.10683, section 2.1, for a key `offset` tokens after the query.

    Half of the buckets hold one distance each. The borders of the others grow geometrically up to `max_distance`:
    border k lies at `exact * (max_distance / exact) ** (k / rest)`, compared here as whole numbers.
    """
    start = 0
    if is_causal:
        distance = max(-offset, 0)
    else:
        num_buckets //= 2
        start = num_buckets if offset > 0 else 0
        distance = abs(offset)
    exact = num_buckets // 2
    rest = num_buckets - exact
    if distance < exact:
        return start + distance
    passed = sum(distance**rest >= exact ** (rest - k) * max_distance**k for k in range(1, rest))
    return start + exact + passed


class RelativePositions(NoPositions):
    def biases(self, head, query, keys):
        table = self.weights["relative_attention_bias.weight"]
        limit, is_causal = self.config.relative_attention_max_distance, self.config.is_causal
        return table[[t5_bucket(key - query, len(table), limit, is_causal) for key in keys], head]


POSITIONS = {
    "none": NoPositions,
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rope": RotaryPositions,
    "relative": RelativePositions,
}


# Attention: each kind is the set of keys that a query sees.


def sees_full(config, query: int, key: int) -> bool:
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3."""
    return key <= query or not config.is_causal


def sees_sliding(config, query: int, key: int) -> bool:
    """Beltagy et al. 2020, arXiv 2004.05150: a decoder's window ends at the query, an encoder's is centred on it."""
    if config.is_causal:
        return 0 <= query - key < config.sliding_window
    return abs(query - key) <= config.sliding_window


def sees_chunked(config, query: int, key: int) -> bool:
    """Llama 4 (Meta 2025): the query's own chunk."""
    same_chunk = query // config.attention_chunk_size == key // config.attention_chunk_size
    return same_chunk and sees_full(config, query, key)


def sees_within(config, window: int, query: int, key: int) -> bool:
    """A window of `window` tokens: up to the query, or in an encoder centred on it, an even one leaning left."""
    if config.is_causal:
        return 0 <= query - key < window
    return -((window - 1) // 2) <= query - key <= window // 2


def sees_simplicial(config, query: int, key: int) -> bool:
    """Roy et al. 2025, arXiv 2507.02754: the window of the first keys."""
    return sees_within(config, config.simplicial_window, query, key)


def sees_second(config, query: int, key: int) -> bool:
    """The window of the second keys."""
    return sees_within(config, config.simplicial_second_window, query, key)


SEES = {"full": sees_full, "sliding": sees_sliding, "chunked": sees_chunked, "simplicial": sees_simplicial}


def heads_of(config, x: torch.Tensor, weights: Weights, name: str) -> list[torch.Tensor]:
    """Projects `x` (N, hidden) and returns one (N, D) matrix a head, normalised if `qk_norm` says so."""
    heads = list(linear(x, weights[f"{name}_proj"]).split(config.head_dim, dim=1))
    if config.qk_norm and name != "v":
        heads = [NORMS[config.norm_type](head, weights[f"{name}_norm"], config.norm_eps) for head in heads]
    return heads


def hadamard(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Roy et al. 2025, arXiv 2507.02754, equation 5, over the square root of the number of terms."""
    return (q * k * second).sum() / math.sqrt(len(q))


def complex_product(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Features i and i + d/2 are one number: the real part of the sum of q times the conjugates of both keys."""
    q, k, second = (torch.complex(*vector.chunk(2)) for vector in (q, k, second))
    return (q * k.conj() * second.conj()).sum().real / math.sqrt(4 * len(q))


def determinant(q: torch.Tensor, k: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Equation 9: features i, i + d/3 and i + 2d/3 are one point, and the volumes q, k, k' span are summed."""
    points = torch.stack([vector.view(3, -1) for vector in (q, k, second)])  # (vector, axis, point)
    return torch.linalg.det(points.permute(2, 0, 1)).sum() / math.sqrt(2 * len(q))


FORMS = {"hadamard": hadamard, "complex": complex_product, "determinant": determinant}


def simplicial_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Roy et al. 2025, arXiv 2507.02754, equations 5 to 7, a pair at a time, with a bias for each offset."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    seconds = list(linear(x, weights["second_k_proj"]).split(config.head_dim, dim=1))
    if config.qk_norm:
        seconds = [rmsnorm(head, weights["second_k_norm"], config.norm_eps) for head in seconds]
    second_values = list(linear(x, weights["second_v_proj"]).split(config.head_dim, dim=1))
    turn = lambda head: torch.stack([positions.rotate(row, p) for p, row in enumerate(head)])  # noqa: E731
    queries, keys = [turn(head) for head in queries], [turn(head) for head in keys]
    if config.simplicial_form == "determinant":
        seconds = [turn(head) for head in seconds]
    reach = config.simplicial_second_window - 1 if config.is_causal else config.simplicial_second_window // 2
    form, outputs = FORMS[config.simplicial_form], []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            pairs = [
                (j, k)
                for j in range(len(x))
                for k in range(len(x))
                if sees_simplicial(config, i, j) and sees_second(config, i, k)
            ]
            scores = [form(query, keys[g][j], seconds[g][k]) for j, k in pairs]
            if config.simplicial_offset_bias:
                scores = [
                    s + weights["offset_bias"][h, k - i + reach] for s, (_, k) in zip(scores, pairs, strict=True)
                ]
            products = torch.stack([values[g][j] * second_values[g][k] for j, k in pairs])
            rows.append(softmax(torch.stack(scores)) @ products)
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def scale_of(config) -> float:
    """The factor on the scores: Vaswani et al. 2017, equation 1, unless the config has one."""
    return 1 / math.sqrt(config.head_dim) if config.attention_scale is None else config.attention_scale


def pairwise_attention(sees, config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Equation 1 of Vaswani et al. 2017, a query at a time; query head h reads key-value head `h * G / H`."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    keys = [torch.stack([positions.rotate(row, p) for p, row in enumerate(head)]) for head in keys]
    outputs = []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            seen = [j for j in range(len(x)) if sees(config, i, j)]
            query = positions.rotate(query, i)
            scores = keys[g][seen] @ query * scale_of(config) + positions.biases(h, i, seen)
            rows.append(softmax(scores) @ values[g][seen])
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def bigbird_blocks(config, own: int, count: int, draws: list[int]) -> list[int]:
    """The blocks that block `own` of `count` sees: Zaheer et al. 2020, arXiv 2007.14062, section 2, as sets.

    Each number below 2^31 picks one of the blocks that are seen neither as global nor in the window, once.
    """
    num_global, width = config.bigbird_num_global_blocks, config.bigbird_num_window_blocks
    if config.is_causal:
        there, global_blocks, window = range(own + 1), range(num_global), range(own - width + 1, own + 1)
    else:
        ends = num_global // 2
        there, window = range(count), range(own - width // 2, own + width // 2 + 1)
        global_blocks = [*range(num_global - ends), *range(count - ends, count)]
        if own in global_blocks:
            return list(there)
    seen = [block for block in there if block in global_blocks or block in window]
    others = [block for block in there if block not in seen]
    for draw in draws:
        if others:
            seen.append(others.pop(draw * len(others) >> 31))
    return seen


def bigbird_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Zaheer et al. 2020, arXiv 2007.14062, a query at a time; a decoder's pattern is cut to the past."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    keys = [torch.stack([positions.rotate(row, p) for p, row in enumerate(head)]) for head in keys]
    size, outputs = config.bigbird_block_size, []
    count = math.ceil(len(x) / size)
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            draws = []
            if config.bigbird_num_random_blocks:
                table = weights["random_draws"][h]
                draws = [int(draw) for draw in table[i // size % len(table)]]
            blocks = bigbird_blocks(config, i // size, count, draws)
            seen = [j for j in range(len(x)) if j // size in blocks and sees_full(config, i, j)]
            scores = keys[g][seen] @ positions.rotate(query, i) / math.sqrt(config.head_dim)
            rows.append(softmax(scores) @ values[g][seen])
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def lsh_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Kitaev et al. 2020, arXiv 2001.04451, section 2, with chunks that are counted within a bucket.

    Keys are queries of unit length (times the square root of their size, which the scale takes away again), and a
    token's own key has the score -1e5. Hashes are merged as in equation 5, by the logarithms of their denominators.
    """
    queries, values = (heads_of(config, x, weights, name) for name in "qv")
    directions, size, reach = weights["directions"], config.lsh_chunk_length, config.lsh_num_adjacent_chunks
    outputs = []
    for h, head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        turned = torch.stack([positions.rotate(row, p) for p, row in enumerate(head)])
        keys = torch.stack([row / torch.sqrt((row * row).mean() + 1e-6) for row in turned])
        results, sums = [], []  # of each hash, for each token
        for r in range(directions.shape[1]):
            nearness = [torch.cat([row @ directions[:, r], -(row @ directions[:, r])]) for row in head]
            buckets = [int(row.argmax()) for row in nearness]
            chunks = [buckets[:i].count(buckets[i]) // size for i in range(len(x))]
            rows, totals = [], []
            for i, query in enumerate(turned):
                seen = [
                    j
                    for j in range(len(x))
                    if buckets[j] == buckets[i] and abs(chunks[i] - chunks[j]) <= reach and sees_full(config, i, j)
                ]
                scores = [keys[j] @ query / math.sqrt(config.head_dim) if j != i else x.new_tensor(-1e5) for j in seen]
                scores = torch.stack(scores)
                rows.append(softmax(scores) @ values[g][seen])
                totals.append(torch.logsumexp(scores, dim=0))
            results.append(torch.stack(rows))
            sums.append(torch.stack(totals))
        shares = torch.softmax(torch.stack(sums), dim=0)
        outputs.append((shares[..., None] * torch.stack(results)).sum(dim=0))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def elu_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Katharopoulos et al. 2020, arXiv 2006.16236, equation 7."""
    return [x_i + 1 if x_i > 0 else torch.exp(x_i) for x_i in x]


def relu_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Kasai et al. 2021, arXiv 2103.13076, without the learned projection."""
    return [x_i * (x_i > 0) for x_i in x]


def softmax_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Zhang et al. 2024, Hedgehog, arXiv 2402.04347, without the learned projection."""
    return [*softmax(x), *softmax(-x)]


def dpfp_features(x: torch.Tensor) -> list[torch.Tensor]:
    """Schlag et al. 2021, arXiv 2102.11174, equation 37 with nu = 1: each neighbour in a ring of 2d numbers."""
    ring = relu_features(x) + relu_features(-x)
    return [ring[i] * ring[(i + 1) % len(ring)] for i in range(len(ring))]


FEATURE_MAPS = {"elu": elu_features, "relu": relu_features, "softmax": softmax_features, "dpfp": dpfp_features}


def feature_attention(config, weights: Weights, x: torch.Tensor, features) -> torch.Tensor:
    """Each query's sum of values, weighted by products of features, over a sum of such weights.

    `features(vector, position)` are those of a query or key above the line, and those below it. A query without
    anything to divide by gets 0.
    """
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    queries, keys = ([[features(row, i) for i, row in enumerate(head)] for head in heads] for heads in (queries, keys))
    outputs = []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, (query, norm_query) in enumerate(query_head):
            above, below = torch.zeros(config.head_dim, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
            for j, (key, norm_key) in enumerate(keys[g]):
                if sees_full(config, i, j):
                    above, below = above + (query @ key) * values[g][j], below + norm_query @ norm_key
            rows.append(above / below if below > 0 else above * 0)
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def linear_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Katharopoulos et al. 2020, arXiv 2006.16236, equation 5, with the rotations of Su et al. 2021, equation 19."""

    def features(vector, position):
        mapped = torch.stack(FEATURE_MAPS[config.linear_feature_map](vector))
        turned = [positions.rotate(part, position) for part in mapped.split(config.head_dim)]
        return torch.cat(turned), mapped

    return feature_attention(config, weights, x, features)


def performer_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Choromanski et al. 2020, arXiv 2009.14794, equation 5 (positive features), of x = q / d^(1/4)."""

    def features(vector, position):
        vector = positions.rotate(vector, position) / config.head_dim**0.25
        powers = torch.stack([torch.exp(w @ vector - vector @ vector / 2) for w in weights["projection"]])
        return powers, powers

    return feature_attention(config, weights, x, features)


ATTENTIONS = {
    "full": partial(pairwise_attention, sees_full),
    "sliding": partial(pairwise_attention, sees_sliding),
    "chunked": partial(pairwise_attention, sees_chunked),
    "simplicial": simplicial_attention,
    "bigbird": bigbird_attention,
    "linear": linear_attention,
    "performer": performer_attention,
    "lsh": lsh_attention,
}


def cross_attention(config, weights: Weights, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3: each row of `x` sees every row of `source` (M, hidden)."""
    queries = heads_of(config, x, weights, "q")
    keys, values = (heads_of(config, source, weights, name) for name in "kv")
    outputs = []
    for h, head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = [softmax(keys[g] @ query * scale_of(config)) @ values[g] for query in head]
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


# Feed-forwards


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


# The whole model


def trunk(config, weights: Weights, tokens: list[int], segments=None, source=None) -> torch.Tensor:
    """Last hidden states (N, hidden) of one sequence.

    `segments` are numbers, one a token, all 0 by default; `source` is what cross-attention looks at, (M, hidden).
    """
    scale = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
    positions = POSITIONS[config.position_type](config, weights["positions"])
    table = weights["embed_tokens.weight"]
    x = torch.stack([positions.add(scale * table[token], p) for p, token in enumerate(tokens)])
    if config.type_vocab_size:  # Devlin et al. 2018, arXiv 1810.04805, figure 2
        x = x + weights["token_type_embeddings.weight"][segments or [0] * len(tokens)]

    def norm(name, states):
        return NORMS[config.norm_type](states, weights[name], config.norm_eps)

    if config.embedding_norm:
        x = norm("embedding_norm", x)

    for index in range(config.num_hidden_layers):
        layer = weights[f"layers.{index}"]
        first, second = f"layers.{index}.input_layernorm", f"layers.{index}.post_attention_layernorm"
        attention, feed_forward = (
            ATTENTIONS[config.attention_types[index]],
            FEED_FORWARDS[config.mlp_layer_types[index]],
        )
        between = f"layers.{index}.cross_attention_layernorm"
        here = positions.of_layers(config.layer_types[index])
        has_norm = index > 0 or config.first_attention_norm
        if config.norm_position == "pre":  # Xiong et al. 2020, arXiv 2002.04745, figure 1b
            x = x + attention(config, layer["self_attn"], norm(first, x) if has_norm else x, here)
            if source is not None:
                x = x + cross_attention(config, layer["cross_attn"], norm(between, x), source)
            x = x + feed_forward(config, layer["mlp"], norm(second, x))
        else:  # figure 1a
            x = norm(first, x + attention(config, layer["self_attn"], x, here))
            if source is not None:
                x = norm(between, x + cross_attention(config, layer["cross_attn"], x, source))
            x = norm(second, x + feed_forward(config, layer["mlp"], x))
    return norm("norm", x) if config.norm_position == "pre" else x


def logits(config, weights: Weights, tokens: list[int]) -> torch.Tensor:
    """Logits (N, V) of a `TrineForCausalLM`."""
    return linear(trunk(config, weights["model"], tokens), weights["lm_head"])


def masked_lm_logits(config, weights: Weights, tokens: list[int], segments=None) -> torch.Tensor:
    """Logits (N, V) of a masked language model: Devlin et al. 2018, arXiv 1810.04805, as released."""
    states = trunk(config, weights["model"], tokens, segments)
    return linear(transform(config, weights["transform"], states), weights["lm_head"])


def transform(config, weights: Weights, states: torch.Tensor) -> torch.Tensor:
    """What a head makes of hidden states (N, hidden) before it reads them."""
    states = ACTIVATIONS[config.hidden_act](linear(states, weights["dense"]))
    return NORMS[config.norm_type](states, weights["norm"], config.norm_eps)


def next_sentence_logits(config, weights: Weights, tokens: list[int], segments=None) -> torch.Tensor:
    """Logits (2,) of next-sentence prediction, from the pooled first token."""
    first = trunk(config, weights["model"], tokens, segments)[:1]
    pooled = torch.tanh(linear(first, weights["model"]["pooler"]["dense"]))
    return linear(pooled, weights["seq_relationship"])[0]


def translation_logits(config, weights: Weights, source: list[int], target: list[int]) -> torch.Tensor:
    """Logits (N, V) of an encoder-decoder that reads `source` and then `target`: Vaswani et al. 2017, section 3.1."""
    memory = trunk(config.encoder, weights["model"]["encoder"], source)
    states = trunk(config.decoder, weights["model"]["decoder"], target, source=memory)
    return linear(states * config.logit_scale, weights["lm_head"])


# Losses


def cross_entropy(logits: torch.Tensor, targets: list[int], ignore_index: int = -100) -> tuple[torch.Tensor, int]:
    """Summed `-log softmax(logits)[target]`, in nats, and the number of targets that count."""
    counted = [(row, target) for row, target in zip(logits, targets, strict=True) if target != ignore_index]
    terms = [torch.log(torch.exp(row - row.max()).sum()) + row.max() - row[target] for row, target in counted]
    return sum(terms, start=torch.zeros((), dtype=torch.float64)), len(counted)


def balancing_loss(config, weights: Weights, router_logits: torch.Tensor) -> torch.Tensor:
    """Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6, for the logits (N, E) of one layer."""
    num_tokens, num_experts = router_logits.shape
    loads, shares = [0.0] * num_experts, [0.0] * num_experts
    for row in router_logits:
        scores, preferences = ROUTERS[config.router_type](config, weights, row)
        ranking = sorted(range(num_experts), key=lambda expert: -preferences[expert].item())
        for expert in ranking[: config.num_experts_per_tok]:
            loads[expert] += 1 / num_tokens
        for expert in range(num_experts):
            shares[expert] = shares[expert] + scores[expert] / scores.sum() / num_tokens
    return num_experts * sum(load * share for load, share in zip(loads, shares, strict=True))


def z_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """Zoph et al. 2022, arXiv 2202.08906, equation 5, for the logits (N, E) of one layer."""
    return sum(torch.log(torch.exp(row).sum()) ** 2 for row in router_logits) / len(router_logits)


# Keyed like the rows of `trine.configuration.kinds`; a test fails where a kind has no loop here.
REFERENCES = {"attention": ATTENTIONS, "position": POSITIONS, "feed_forward": FEED_FORWARDS, "router": ROUTERS}
