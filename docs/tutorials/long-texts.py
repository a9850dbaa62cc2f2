# %% [markdown]
# # Long texts: who recalls what, and at what cost
#
# Attention that sees everything compares each token with each: twice the text is four times the work. Other kinds
# see less, or keep a summary of constant size. What do they lose? This page hides facts in a text, asks for them far
# away, and then measures time and memory against the length.

# %%
import time

import matplotlib.pyplot as plt
import torch
from transformers import set_seed

from trine import TrineConfig, TrineForCausalLM, TrineModel


# %% [markdown]
# ## Needles in a haystack
#
# A text is random fillers with four *needles*, each a token that says a key and a value. At its end the keys come
# again, and after each its value is to be written ([Arora et al. 2023](https://arxiv.org/abs/2312.04927) call the
# task associative recall). Nothing can be guessed: the values are drawn anew for each text.

# %%
keys, values, fillers, needles, length = 8, 8, 32, 4, 128
first_key = keys * values
first_value = first_key + keys
first_filler = first_value + values


def haystack(count, length, generator):
    hay = length - 2 * needles
    ids = torch.randint(first_filler, first_filler + fillers, (count, length), generator=generator)
    asked = torch.rand(count, keys, generator=generator).argsort(1)[:, :needles]
    answers = torch.randint(values, (count, needles), generator=generator)
    places = torch.rand(count, hay, generator=generator).argsort(1)[:, :needles]
    ids.scatter_(1, places, asked * values + answers)
    ids[:, hay::2], ids[:, hay + 1 :: 2] = first_key + asked, first_value + answers
    labels = torch.full_like(ids, -100)
    labels[:, hay + 1 :: 2] = ids[:, hay + 1 :: 2]
    return ids, labels, torch.arange(hay, length, 2) - places


print(haystack(1, 24, torch.Generator().manual_seed(0))[0].tolist(), "- below 64: needles, from 80 on: fillers")

# %% [markdown]
# ## Six models
#
# Two layers each, which differ in nothing but their attention. The window has 32 tokens, so that two layers of
# windows reach 62 tokens back. In the last model one layer of windows and a full one take turns. Texts begin short
# and grow, which makes the task easier to learn.


# %%
def build(kind, head=TrineForCausalLM, **options):
    set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    start = {"initializer": "xavier", "initializer_range": 64**-0.5, "scale_embedding": True}
    windows = {"sliding_window": 32, "bigbird_block_size": 8, "bigbird_num_random_blocks": 1}
    windows |= {"bigbird_num_global_blocks": 1, "bigbird_num_window_blocks": 2}
    options = {**sizes, **start, **windows, "attention_types": kind, **options}
    return head(TrineConfig(vocab_size=first_filler + fillers, max_position_embeddings=16384, **options))


def train(model, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        now = (32, 64, length)[min(3 * step // steps, 2)]
        ids, labels, _ = haystack(2048 // now, now, generator)
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def judge(model):
    ids, labels, distances = haystack(500, length, torch.Generator().manual_seed(2))
    right = (model.eval()(ids).logits[:, :-1].argmax(-1) == labels[:, 1:])[labels[:, 1:] != -100].float()
    distances = distances.flatten()
    return right, distances


steps = 360  # small: 9
kinds = ["full", "sliding", "bigbird", "linear", "performer", "sliding, full"]
recalled = {}
for kind in kinds:
    model = build(kind)
    begin = time.process_time()
    train(model, steps)
    right, distances = judge(model)
    recalled[kind] = (right, distances)
    near, far = right[distances <= 32].mean(), right[distances > 62].mean()
    seconds = time.process_time() - begin
    print(f"{kind:14} all {right.mean():6.1%}   up to 32 back {near:6.1%}   over 62 back {far:6.1%}   {seconds:.0f} s")

# %% alt="Share of right answers against the distance of the needle, a line for each kind of attention"
edges = torch.arange(0, length, 16)
figure, axis = plt.subplots(figsize=(6, 3.5))
for kind, (right, distances) in recalled.items():
    shares = [right[(distances >= edge) & (distances < edge + 16)].mean() for edge in edges]
    axis.plot(edges + 8, shares, marker="o", markersize=3, label=kind)
axis.axhline(1 / values, color="grey", linestyle=":", label="a guess")
axis.set_xlabel("tokens between needle and question")
axis.set_ylabel("right")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# The curves are the masks. *Sliding* answers what two windows reach, and guesses beyond. *BigBird* sees the block at
# its side and the first block of the text, which is global: needles near the end of the haystack or at its very
# beginning are found, those in between mostly not. *Linear* and *Performer* have a state of constant size, in which
# four needles find room. And one full layer behind a layer of windows recalls like two.
#
# Do not read this as "linear attention is enough". With eight needles among sixteen keys in 256 tokens, linear
# attention found 67 %, the Performer 83 %, full attention 99.5 %; and of a text that was to be copied whole neither
# of the two learnt anything ([all figures](../concepts/long-texts.md#what-it-can-and-cannot-do)).
#
#
# ## What it costs
#
# One layer of each kind, without training: CPU seconds of a forward pass against the length. Full attention begins
# as the others do; from a thousand tokens on each doubling takes it three to four times as long, and the others
# twice.

# %% alt="CPU time against length on logarithmic scales: full attention rises twice as steeply as the others"
longest = 8192  # small: 1024
lengths = [2**n for n in range(8, 14) if 2**n <= longest]
figure, axis = plt.subplots(figsize=(6, 3.5))
for kind in kinds[:-1]:
    layer = build(kind, TrineModel, num_hidden_layers=1).eval()
    times = []
    for tokens in lengths:
        ids = torch.randint(first_filler, (1, tokens))
        with torch.no_grad():
            layer(ids, use_cache=False)
            begin = time.process_time()
            for _ in range(3):
                layer(ids, use_cache=False)
        times.append((time.process_time() - begin) / 3)
    axis.loglog(lengths, times, marker="o", markersize=3, label=kind)
    print(f"{kind:10} milliseconds", [round(1000 * seconds) for seconds in times])
axis.set_xlabel("tokens")
axis.set_ylabel("CPU seconds of a layer")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## What a text leaves behind
#
# A decoder keeps what later tokens need of earlier ones, its *cache*. While a text is written, this is what fills
# memory.

# %%
for kind in kinds[:-1]:
    decoder = build(kind, num_hidden_layers=1).eval()
    sizes = []
    for tokens in (256, 1024):
        with torch.no_grad():
            cache = decoder(torch.randint(first_filler, (1, tokens))).past_key_values
        tensors = [item for layer in cache.layers for item in vars(layer).values() if isinstance(item, torch.Tensor)]
        sizes.append(f"{tokens} tokens: {sum(item.nbytes for item in tensors) / 1024:.0f} KiB")
    print(f"{kind:10}", *sizes, sep="   ")

# %% [markdown]
# Full attention keeps keys and values of all tokens, and here BigBird does, too, since its random blocks may be
# anywhere. A window keeps its window. Linear attention keeps a matrix for each head, however long the text.
#
# So the choice is one of what a text asks for. Where far details count, let one layer in some few be full, as in the
# last model; where they do not, windows are the cheapest ([Attention for long texts](../concepts/long-texts.md)).
# Next: [a mechanism of your own](own-mechanism.md).
