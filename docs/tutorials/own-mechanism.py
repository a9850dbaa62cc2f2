# %% [markdown]
# # A mechanism of your own, from an idea to a shared checkpoint
#
# Softmax has to look somewhere: its weights sum to 1 even where nothing fits. An idea: give each head a place that
# is always there and holds nothing, so that it may look away. That is one more term in the denominator of the
# softmax. This page writes it as one file, checks it, trains with it, and loads the result in a process that has no
# Trine.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers import set_seed

from trine import TrineConfig, TrineForCausalLM, load_plugin
from trine.testing import check_mechanism


# %% [markdown]
# ## One file
#
# `PairwiseAttention` brings projections, heads, positions, masks and caches. What is ours is how scores become
# weights. `visible` tells which keys a query may see; `None` stands for all.

# %%
source = '''"""Softmax attention that may look at nothing."""

import torch

from trine import KindField, PairwiseAttention, register_attention


@register_attention("quiet", fields={"quiet_score": KindField(0.0, "Score of the place that holds nothing.")})
class QuietAttention(PairwiseAttention):
    """Weights are exp(score) over the sum of all and of exp(quiet_score): they sum to less than 1."""

    def weights(self, scores, visible):
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        nothing = torch.full_like(scores[..., :1], self.config.quiet_score)
        return torch.cat([scores, nothing], dim=-1).softmax(dim=-1)[..., :-1]
'''
Path("quiet_attention.py").write_text(source, encoding="utf-8")
plugin = load_plugin("quiet_attention.py")

# %% [markdown]
# ## Does it keep what it promises?
#
# A mask that leaks, a cache that forgets, padding that changes the result: such errors train quite well and show
# late. `check_mechanism` looks for them, in models that have this mechanism alone and beside another, in float64.
# Here are some of its [checks](../how-to/check-a-mechanism.md); without `only` it runs all.

# %%
checks = ["initialization", "gradients", "causality", "padding", "packing", "cache", "beams", "overfitting"]
checks = checks  # small: ["causality", "padding"]
for result in check_mechanism("quiet", only=checks):
    print(f"{result.name:16} {'holds' if result.passed else 'FAILS'}  {result.detail}")

# %% [markdown]
# ## In a model
#
# From now on `quiet` is a name like any other. We train two small decoders to look letters up, as the one in [How
# attention works](attention.md), with ordinary attention and with ours.


# %%
def train(kind):
    set_seed(0)
    model = TrineForCausalLM(
        TrineConfig(
            vocab_size=32,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            attention_types=kind,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        half = torch.randint(32, (64, 16))
        texts = torch.cat([half, half], dim=1)
        loss = model(texts, labels=texts.masked_fill(torch.arange(32) < 17, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model.eval(), losses


steps = 600  # small: 20
models = {kind: train(kind) for kind in ("full", "quiet")}
for kind, (_, losses) in models.items():
    print(kind, "loss at the end", round(sum(losses[-10:]) / 10, 3))

# %% alt="Two curves of the loss against steps, and the sum of the weights of each head over a text"
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for kind, (_, losses) in models.items():
    left.plot(losses, label=kind)
left.set_xlabel("step")
left.set_ylabel("nats a letter")
left.legend(fontsize=8)
model = models["quiet"][0]
model.set_attn_implementation("eager")
half = torch.randperm(32)[:16]
with torch.no_grad():
    weights = model(torch.cat([half, half])[None], output_attentions=True).attentions[1][0]
for head, sums in enumerate(weights.sum(-1)):
    right.plot(sums, label=f"head {head}")
right.set_xlabel("letter of the text")
right.set_ylabel("sum of the weights, second layer")
right.set_ylim(0, 1.02)
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Both learn the task in the same steps, to the same loss: here the idea gains nothing. Yet it is used. At the first
# letters, where there is nothing to find, the weights of all heads sum to nearly 0, and one head looks away from
# parts of the first half. In the second half, where there is something to look up, all sum to 1. Whether that helps
# a larger model one would have to measure; `trine check` and a small task only tell that the mechanism works.
#
# ## Shared
#
# Saving puts the file beside the weights. A fresh process, in which Trine cannot be imported, gets the same numbers:

# %%
model.save_pretrained("my-quiet")
print(sorted(path.name for path in Path("my-quiet").iterdir()))
stranger = """
import sys
sys.modules["trine"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("my-quiet", trust_remote_code=True)
print(type(model).__name__, float(model(torch.arange(8)[None]).logits.sum()))
"""
told = subprocess.run([sys.executable, "-c", stranger], capture_output=True, text=True, check=True).stdout
print(told.strip())
with torch.no_grad():
    print("here:", float(TrineForCausalLM.from_pretrained("my-quiet")(torch.arange(8)[None]).logits.sum()))

# %% [markdown]
# `model.push_to_hub("me/my-quiet")` sends the same folder. On the command line the steps are `trine new`,
# `trine check`, `trine pretrain --plugin quiet_attention.py` and `trine push-to-hub`: [A mechanism of your
# own](../how-to/own-mechanism.md) has them, and what else can be added.
