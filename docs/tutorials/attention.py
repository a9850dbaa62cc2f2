# %% [markdown]
# # How attention works, seen
#
# Attention is a weighted mean. A token asks a question (its *query*), every token offers an answer's name (its
# *key*) and the answer itself (its *value*); where question and name agree, much of the answer is taken. This page
# computes it by hand, finds the same numbers in a model, draws what different masks let a token see, and ends with a
# head that a small model has learnt.

# %%
import matplotlib.pyplot as plt
import torch

from trine import TrineConfig, TrineForCausalLM, TrineModel


torch.manual_seed(0)
words = ["the", "cat", "sat", "on", "the", "mat"]
states = torch.randn(len(words), 8)  # (tokens, hidden): what a layer is given for each word

# %% [markdown]
# ## Queries, keys and values
#
# Three matrices, which training learns, make the three from each token's state.

# %%
to_query, to_key, to_value = (torch.randn(8, 4) for _ in range(3))
query, key, value = states @ to_query, states @ to_key, states @ to_value
scores = query @ key.T / 4**0.5  # (queries, keys): how well each question fits each name
weights = scores.softmax(dim=-1)  # each row sums to 1
output = weights @ value  # (tokens, 4): a mean of the values, with these weights
print([round(float(weight), 3) for weight in weights[1]], "sum", round(float(weights[1].sum()), 3))

# %% [markdown]
# The division by the root of the width keeps scores of long vectors from growing with their length: without it,
# softmax would soon give all weight to one token, and learn nothing more ([Vaswani et al.
# 2017](https://arxiv.org/abs/1706.03762), section 3.2.1). As a picture, a row for each token that asks and a column
# for each that is seen:


# %% alt="A heat map of six words by six words, whose rows have their own patterns"
def draw(grid, title, rows=words, columns=words, axis=None):
    axis = axis or plt.subplots(figsize=(3.2, 3.2))[1]
    axis.imshow(grid, cmap="Blues", vmin=0)
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_title(title, fontsize=8)


draw(weights, "weights without a mask")
plt.show()

# %% [markdown]
# ## A mask: who may see whom
#
# A model that writes must not see what comes after. Scores of later tokens become minus infinity, so that their
# weights become 0. An encoder, which only reads, needs no such mask.

# %% alt="The same map, with nothing right of the diagonal"
later = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
causal = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
draw(causal, "weights with a causal mask")
plt.show()

# %% [markdown]
# ## The same in a model
#
# A layer of Trine holds these matrices under the names that all models on the Hub use: `q_proj`, `k_proj`, `v_proj`,
# and `o_proj`, which maps the heads' outputs back. With one head and no positions, the model's own weights are our
# formula's.

# %%
config = TrineConfig(
    vocab_size=16,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=16,
    position_type="none",
    attn_implementation="eager",  # the one that returns weights
)
model = TrineModel(config).eval()
layer = model.layers[0]
tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
with torch.no_grad():
    seen = model(tokens, output_attentions=True).attentions[0][0, 0]
    inputs = layer.input_layernorm(model.embed_tokens(tokens))[0]
    scores = layer.self_attn.q_proj(inputs) @ layer.self_attn.k_proj(inputs).T / 8**0.5
    by_hand = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
print("largest difference:", float((seen - by_hand).abs().max()))

# %% [markdown]
# ## Heads
#
# Several small attentions side by side, each with its own matrices, can look at different things at once. They share
# the width: four heads of a model of 64 have 16 numbers each, and cost as much as one head of 64.
#
# ## Other masks, other kinds
#
# Which tokens may be seen is what most kinds of attention differ in. `attention_types` names one for all layers, or
# one for each. We draw what a token can see by asking the model: where a change of one token's input changes
# another's output, as its gradient tells, the second sees the first.


# %% alt="Maps: a triangle, a band, blocks on the diagonal, a band with columns and blocks, a triangle, a wider band"
def sees(model, length):
    inputs = torch.randn(1, length, model.config.hidden_size, requires_grad=True)
    outputs = model(inputs_embeds=inputs).last_hidden_state[0]
    rows = [torch.autograd.grad(row.square().sum(), inputs, retain_graph=True)[0][0] for row in outputs]
    return torch.stack(rows).abs().sum(-1) > 0


length = 48
kinds = {
    "full": {},
    "sliding": {"sliding_window": 12},
    "chunked": {"attention_chunk_size": 12},
    "bigbird": {"bigbird_block_size": 4, "bigbird_num_random_blocks": 1},
    "linear": {},
    "simplicial": {"simplicial_window": 24, "simplicial_second_window": 4},
}
figure, axes = plt.subplots(2, 3, figsize=(9, 6))
numbers = [str(number) if number % 8 == 0 else "" for number in range(length)]
for axis, (kind, options) in zip(axes.flat, kinds.items(), strict=True):
    one_layer = TrineConfig.from_preset("tiny", vocab_size=64, num_hidden_layers=1, attention_types=kind, **options)
    draw(sees(TrineModel(one_layer), length), kind, numbers, numbers, axis)
plt.show()

# %% [markdown]
# *Sliding* and *chunked* cost as much per token whatever the length, *full* costs more for each further token.
# `linear` sees all, too, but through a state of constant size, which cannot keep everything. `simplicial` looks at
# pairs of tokens, one in each of two windows: [all kinds](../concepts/attention.md).
#
# ## Positions
#
# Nothing so far knows the order of the words: without a mask, shuffled words get shuffled outputs, and that is all.
# Positions change it. Rotary positions turn queries and keys by an angle that grows with their place, so that a
# score depends on how far apart two tokens are, and on nothing else.

# %%
shuffle = torch.randperm(6)
for position_type in ("none", "rope"):
    config = TrineConfig.from_preset("tiny", vocab_size=64, is_causal=False, position_type=position_type)
    encoder = TrineModel(config).eval()
    with torch.no_grad():
        straight, mixed = (encoder(order).last_hidden_state[0] for order in (tokens, tokens[:, shuffle]))
    print(position_type, "- the shuffled outputs differ by", round(float((straight[shuffle] - mixed).abs().max()), 6))

# %% [markdown]
# ## A head that a model has learnt
#
# Texts repeat themselves. Who has read "Mr Dursley" once expects "Dursley" after the next "Mr". Our model reads
# random letters, and then the same letters again: the second half can be known, if it looks up what came after this
# letter the first time. That takes two layers: one that marks each letter with the one before it, and one that looks
# for the mark ([Olsson et al. 2022](https://arxiv.org/abs/2209.11895) call the second an *induction head*).

# %%
steps = 600  # small: 30
torch.manual_seed(0)
config = TrineConfig(
    vocab_size=32,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
)
model = TrineForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(steps):
    half = torch.randint(32, (64, 16))
    texts = torch.cat([half, half], dim=1)
    loss = model(texts, labels=texts.masked_fill(torch.arange(32) < 17, -100)).loss  # only the second half counts
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss of the second half {float(loss):.3f}, of a guess {float(torch.tensor(32.0).log()):.3f}")

# %% alt="Heat maps of four heads of the second layer, in one of which the second half of the text has a diagonal"
half = torch.randperm(26)[:12]
text = torch.cat([half, half])[None]
model.set_attn_implementation("eager")
with torch.no_grad():
    maps = model(text, output_attentions=True).attentions[1][0]
letters = [chr(97 + int(token)) for token in text[0]]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for head, axis in enumerate(axes):
    draw(maps[head], f"second layer, head {head}", letters, letters, axis)
plt.show()

# %% [markdown]
# The diagonal in the lower left is the look-up: each letter of the second half sees the letter *after* its first
# occurrence, which is the one to write next.
#
# `trine inspect --model FOLDER --text "..."` draws the maps of any of Trine's models, as pictures and as [a
# page](../how-to/inspect.md) that shows a token's view when the mouse is over it. Next: [2-simplicial
# attention](../concepts/simplicial.md), where a token looks at pairs.
