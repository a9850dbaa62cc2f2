# %% [markdown]
# # Start from MiniLM: convert, lift, adapt, export
#
# Nobody has to begin with random weights. MiniLM is an encoder of 22 million parameters that was trained on a billion
# pairs of sentences. This page takes it as it is published, makes a Trine model of it that computes the same, changes
# its architecture without changing what it computes, teaches it a subject, and hands it over to ONNX Runtime.
#
# Where the published weights are not at hand, a BERT of the same form with random weights takes their place: every
# step runs, and the figures are then those of an untrained model.

# %%
import os
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, set_seed

from trine import TrineModel, convert, lift, train_wordpiece


topics = {
    "music": ["plays songs", "records sound", "edits audio files", "shows the notes of a song", "tunes a guitar"],
    "mail": ["reads mail", "sorts letters", "filters spam", "sends a newsletter", "keeps an address book"],
    "games": ["a game of chess", "a puzzle with blocks", "a race of cars", "a game of cards", "solves a maze"],
    "maps": ["draws maps", "shows the way", "reads positions of satellites", "plans a route", "measures distances"],
}
texts = [text for group in topics.values() for text in group]
subjects = [name for name, group in topics.items() for _ in group]

set_seed(0)
source = os.environ.get("MINILM", "")  # a folder with sentence-transformers/all-MiniLM-L6-v2, if there is one
if not source:
    source = "some-bert"
    tokenizer = train_wordpiece(texts * 4, vocab_size=300, show_progress=False)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(source)
    tokenizer.save_pretrained(source)
print(source)

# %% [markdown]
# ## Convert
#
# A conversion is a table of names: each tensor of BERT has one place in Trine's model, and no number changes. We
# compare the states of the two for the same text.

# %%
convert(source, "minilm")
tokenizer = AutoTokenizer.from_pretrained("minilm")
theirs = AutoModel.from_pretrained(source).eval()
ours = TrineModel.from_pretrained("minilm").eval()
batch = tokenizer(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    difference = (ours(**batch).last_hidden_state - theirs(**batch).last_hidden_state).abs()
print("largest difference:", float(difference[batch["attention_mask"].bool()].max()))

# %% [markdown]
# ## Lift
#
# A *lift* changes the architecture and keeps the function. Two layers become
# [2-simplicial](../concepts/simplicial.md): they weigh pairs of tokens, and their second keys begin as constants, so
# that each pair weighs what its first token did. Where texts are shorter than the first window, it sees all that the
# full mask did. Weights of pairs are not dropped in training, which the lift wants to be told.

# %%
windows = {"simplicial_window": 64, "simplicial_second_window": 4}
lifted = lift(ours, "simplicial", layers=[1, 2], attention_dropout=0.0, **windows)
with torch.no_grad():
    change = (lifted.eval()(**batch).last_hidden_state - ours(**batch).last_hidden_state).abs()
print(ours.config.attention_types, "->", lifted.config.attention_types)
print("largest change:", float(change[batch["attention_mask"].bool()].max()))

# %% [markdown]
# Now the layers *can* do something else, and training decides whether they do. The way back is open only as long as
# the second keys are constant.
#
# ## Adapt
#
# The vector of a text is the mean of its states. Texts of one subject are to be near each other, and those of others
# far: the loss is a classification among the texts of a batch ([losses](../concepts/losses.md)). With twenty texts
# this is a demonstration, not a training; [Embeddings](../how-to/embeddings.md) has one with 3,000 and its figures.


# %%
def vectors(model):
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def cosines(model):
    with torch.no_grad():
        made = vectors(model.eval())
    return made @ made.T


same = torch.tensor([[a == b for b in subjects] for a in subjects])
others = ~torch.eye(len(texts), dtype=torch.bool)
steps = 60  # small: 6
before = cosines(lifted)
optimizer = torch.optim.AdamW(lifted.parameters(), lr=1e-4)
lifted.train()
for _ in range(steps):
    made = vectors(lifted)
    scores = (made @ made.T * 20).masked_fill(~others, float("-inf"))
    loss = -torch.logsumexp(scores.log_softmax(-1).masked_fill(~(same & others), float("-inf")), -1).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
after = cosines(lifted)
for name, matrix in (("before", before), ("after", after)):
    within, between = matrix[same & others].mean(), matrix[~same].mean()
    print(f"{name}: mean cosine within a subject {within:.2f}, between two {between:.2f}")

# %% alt="Two heat maps of cosines of twenty texts of four subjects, before and after training"
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
for axis, matrix, name in zip(axes, (before, after), ("before", "after"), strict=True):
    picture = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axis.set_title(name)
    axis.set_xticks([])
    axis.set_yticks([])
axes[0].set_yticks(range(2, 20, 5), topics)
figure.colorbar(picture, ax=axes, shrink=0.8, label="cosine")
plt.show()

# %% [markdown]
# Blue blocks along the diagonal are subjects. An untrained model begins with texts that are all alike, because the
# mean of random states hardly depends on the words; MiniLM begins with blocks, and training makes them clearer.
# These are the texts that it was trained with: what it is worth shows on others, which `trine train-embeddings`
# holds out by itself.
#
# ## Export
#
# The folder is a model for sentence-transformers, here and where Trine is not installed. `trine export` writes a graph
# for ONNX Runtime and compares its outputs with those of the model before it says that it is done.

# %%
lifted.eval().save_pretrained("my-encoder")
tokenizer.save_pretrained("my-encoder")
print(SentenceTransformer("my-encoder").encode(["plays songs"]).shape)
command = ["trine", "export", "my-encoder", "my-graph"]
told = subprocess.run(command, capture_output=True, text=True)
print(told.stdout[-400:] or told.stderr[-400:])
print(sorted(path.name for path in Path("my-graph").glob("*")))

# %% [markdown]
# On the command line these are `trine convert`, `trine lift`, `trine train-embeddings` and `trine export`, and [Start
# from published weights](../how-to/warm-start.md) makes a summariser of MiniLM with four of them. Next: [search and
# answer with sources](search.md).
