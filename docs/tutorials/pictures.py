# %% [markdown]
# # Pictures and words in one space
#
# A dual encoder has two stacks: one reads words, the other a picture, and both give vectors of one space. It is
# trained so that a picture is nearer to its own caption than to the others of its batch. This page draws its own
# pictures, so that one knows exactly what is in them, and keeps some combinations of colour and shape out of training.

# %%
import random

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import set_seed

from trine import TrineDualEncoder, TrineDualEncoderConfig


colours = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (240, 210, 40)}
shapes = ["circle", "square", "triangle", "cross"]
words = ["a", *colours, *shapes]
held_out = [("red", "circle"), ("green", "square"), ("blue", "triangle"), ("yellow", "cross")]
everything = [(colour, shape) for colour in colours for shape in shapes]
seen = [pair for pair in everything if pair not in held_out]


def draw(colour, shape):
    picture = Image.new("RGB", (32, 32), "white")
    pen, size = ImageDraw.Draw(picture), random.randint(5, 9)
    x, y = random.randint(size, 31 - size), random.randint(size, 31 - size)
    box, fill = (x - size, y - size, x + size, y + size), colours[colour]
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=fill)
    else:
        pen.rectangle((x - size, y - 2, x + size, y + 2), fill=fill)
        pen.rectangle((x - 2, y - size, x + 2, y + size), fill=fill)
    return picture


def pixels(pictures):
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in pictures])


def caption(colour, shape):
    return [words.index(word) for word in ("a", colour, shape)]


# %% [markdown]
# ## Train
#
# A batch has one picture of each of the twelve combinations, drawn anew. The loss is CLIP's: which caption belongs to
# each picture, and which picture to each caption ([losses](../concepts/losses.md)).

# %%
set_seed(0)
stack = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
config = TrineDualEncoderConfig(
    text_config={**stack, "vocab_size": len(words)},
    vision_config={**stack, "image_size": 32, "patch_size": 4},
    projection_dim=32,
    text_pooling="mean",
    vision_pooling="mean",
)
model = TrineDualEncoder(config)
captions = torch.tensor([caption(*pair) for pair in seen])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
steps = 400  # small: 100
for step in range(steps):
    loss = model(input_ids=captions, pixel_values=pixels([draw(*pair) for pair in seen]), return_loss=True).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % (steps // 5) == 0 or step == steps - 1:
        print(f"step {step + 1}: loss {float(loss.detach()):.3f}")

# %% [markdown]
# ## Classes without training for them
#
# A class is a caption, and a picture belongs to the class whose caption is nearest. All sixteen captions may be
# chosen, also the four that were not seen, so that guessing is right once in sixteen times. *Colour* and *shape* count
# what is right of the chosen caption.

# %%
model.eval()
choices = torch.tensor([caption(*pair) for pair in everything])
for name, pairs in (("seen", seen), ("held out", held_out)):
    drawn = [pair for pair in pairs for _ in range(20)]
    with torch.no_grad():
        scores = model(input_ids=choices, pixel_values=pixels([draw(*pair) for pair in drawn])).logits_per_image
    chosen = [everything[place] for place in scores.argmax(-1).tolist()]
    both, colour, shape = (
        sum(map(right, chosen, drawn)) / len(drawn)
        for right in (lambda a, b: a == b, lambda a, b: a[0] == b[0], lambda a, b: a[1] == b[1])
    )
    print(f"{name:9} both {both:.2f}, colour {colour:.2f}, shape {shape:.2f}, of {len(drawn)} new pictures")

# %% [markdown]
# ## Find pictures by words
#
# The other way round: each caption looks for its nearest pictures among 160 new ones, ten of each combination. The
# four queries are the combinations that training never showed.

# %% alt="Four rows of five pictures of coloured shapes, each row found by a caption"
album = [draw(*pair) for pair in everything for _ in range(10)]
with torch.no_grad():
    queries = torch.tensor([caption(*pair) for pair in held_out])
    nearest = model(input_ids=queries, pixel_values=pixels(album)).logits_per_text.topk(5).indices.tolist()
figure, axes = plt.subplots(4, 5, figsize=(5, 4.4))
for row, pair, places in zip(axes, held_out, nearest, strict=True):
    row[0].set_ylabel("\n".join(("a " + pair[0], pair[1])), rotation=0, ha="right", va="center")
    for axis, place in zip(row, places, strict=True):
        axis.imshow(album[place])
        axis.set_xticks([])
        axis.set_yticks([])
plt.show()

# %% [markdown]
# Colour is learned within a few steps, and also for combinations that were never seen. Shape takes longer: after 100
# steps 0.40 of the shapes of seen combinations are right, and 0.42 of the others, where guessing among four gives
# 0.25. After 400 steps it is 0.67 and 0.35. So what more training adds here goes to the combinations that it shows:
# nothing in the loss asks that a shape be known apart from its colour. This is one seed, with 80 pictures held out.
#
# With photographs and captions of your own, `trine train-dual` does the same, and `trine search` finds pictures by
# words: [Pictures and words](../how-to/pictures-and-words.md) has the figures for emoji and their names.
