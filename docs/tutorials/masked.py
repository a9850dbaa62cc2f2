# %% [markdown]
# # BERT from nothing, and what its masking does
#
# A decoder reads from left to right. An encoder reads both ways, so it cannot learn by guessing the next word: it
# would see it. [BERT](https://arxiv.org/abs/1810.04805) hides some words and learns to restore them. This page makes
# a small language whose rules we know, trains such an encoder on it in seconds, and looks closely at what the
# masking does.

# %%
import random

import matplotlib.pyplot as plt
import torch
from transformers import DataCollatorForLanguageModeling, pipeline, set_seed

from trine import TrineConfig, TrineForMaskedLM, train_wordpiece
from trine.training import WholeWordMaskingCollator


animals = {
    "dog": ("barks", "bones", "kennel"),
    "cat": ("meows", "fish", "basket"),
    "cow": ("moos", "grass", "barn"),
    "bird": ("sings", "seeds", "nest"),
    "horse": ("neighs", "hay", "stable"),
    "frog": ("croaks", "insects", "pond"),
}
colours = ["black", "white", "brown", "grey"]


def sentence():
    animal, (sound, food, home) = random.choice([*animals.items()])
    colour, other = random.sample(colours, 2)
    return random.choice(
        [
            f"the {colour} {animal} {sound} in the {home}",
            f"in the {home} a {colour} {animal} eats {food}",
            f"a {colour} {animal} and a {other} {animal} eat {food}",
            f"the {animal} that eats {food} {sound}",
        ]
    )


set_seed(0)
texts = [sentence() for _ in range(4000)]
print(*texts[:4], sep="\n")

# %% [markdown]
# ## What is hidden
#
# A tokenizer of the kind that BERT has: WordPiece. Our language is so small that every word becomes a token, between
# `[CLS]` and `[SEP]`, which BERT puts around each text.

# %%
tokenizer = train_wordpiece(texts, vocab_size=213, show_progress=False)
example = tokenizer("the brown horse neighs in the stable")
print(tokenizer.convert_ids_to_tokens(example["input_ids"]))

# %% [markdown]
# Of each sentence 15 % of the tokens are chosen; only for them there is a loss. BERT replaces 80 % of these by
# `[MASK]`, 10 % by a random token, and leaves 10 % as they are. The collator of transformers does it. We count over
# many copies of one sentence:

# %%
collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
batch = collator([dict(example) for _ in range(5000)])
chosen = batch["labels"] != -100
masked = batch["input_ids"][chosen] == tokenizer.mask_token_id
kept = batch["input_ids"][chosen] == batch["labels"][chosen]
print(f"chosen {chosen.sum() / (5000 * (len(example['input_ids']) - 2)):.3f} of the tokens, of these")
print(f"masked {masked.float().mean():.3f}, as they were {kept.float().mean():.3f}, the rest random")
for row in batch["input_ids"][:4]:
    print(tokenizer.convert_ids_to_tokens(row))

# %% [markdown]
# A larger language cuts rare words into pieces, and writes `##` before what continues a word. A piece is easily
# guessed from the others of its word, and little is learnt of what words mean. *Whole word masking* hides all pieces
# of a word or none. Trine's collator needs to know which word each piece belongs to; a smaller vocabulary shows it:


# %%
def features(text, tokenizer=tokenizer):
    encoded = tokenizer(text)
    inner = [number + 1 for number in encoded.word_ids() if number is not None]
    return {"input_ids": encoded["input_ids"], "word_ids": [0, *inner, inner[-1] + 1]}


pieces = train_wordpiece(texts, vocab_size=150, show_progress=False)
whole = WholeWordMaskingCollator(pieces, mlm_probability=0.3, mask_replace_prob=1.0, random_replace_prob=0.0)
for row in whole([features("the brown horse neighs in the stable", pieces)] * 3)["input_ids"]:
    print(pieces.convert_ids_to_tokens(row))

# %% [markdown]
# ## Training
#
# The model is BERT in small: two layers, learned positions, no mask between tokens. A quarter of the words is hidden
# here: the sentences are short.


# %%
def new_model():
    set_seed(0)
    config = TrineConfig.from_preset(
        "bert-base",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    return TrineForMaskedLM(config)


def train(model, collator, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = model(**collator(random.choices(rows, k=64))).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


steps = 600  # small: 40
rows = [features(text) for text in texts]
model = new_model()
untrained = model.get_input_embeddings().weight.detach().clone()
losses = train(model, WholeWordMaskingCollator(tokenizer, mlm_probability=0.25), steps)
model.eval()
print(f"loss of hidden tokens: first {losses[0]:.2f}, last 50 {sum(losses[-50:]) / 50:.2f}")

# %% [markdown]
# The loss cannot become 0: which colour a dog has, nobody can know. Now we ask. Note the third line: what comes
# *after* the gap decides, which a decoder would not have seen.

# %%
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
questions = (
    "the black dog [MASK] in the kennel",
    "a [MASK] cow and a white cow eat grass",
    "the [MASK] that eats fish meows",
)
for text in questions:
    print(text, "->", [(guess["token_str"], round(guess["score"], 2)) for guess in fill(text, top_k=4)])

# %% [markdown]
# ## Why not mask everything?
#
# Nobody who uses an encoder, for search or for classes, gives it a `[MASK]`. A model that has only ever been asked
# at masks may learn that all other places are none of its business. The 10 % of random and the 10 % of unchanged
# tokens are against that: any token may be wrong, and each place has to know what belongs there. Does it matter? We
# train a second model in which all chosen words are masked, and ask both about words that they *see*: in each
# sentence one animal has been replaced by another, which contradicts the rest.

# %%
only_masks = new_model()
train(only_masks, WholeWordMaskingCollator(tokenizer, 0.25, mask_replace_prob=1.0, random_replace_prob=0.0), steps)
only_masks.eval()


@torch.no_grad()
def judge(model):
    right = {"[MASK] in place of the animal": [], "a wrong animal in its place": [], "the right animal": []}
    for animal, (sound, food, _) in animals.items():
        for other in animals:
            if other == animal:
                continue
            for kind, word in zip(right, ("[MASK]", other, animal), strict=True):
                inputs = tokenizer(f"the {word} that eats {food} {sound}", return_tensors="pt")
                place = [tokenizer.decode(token) for token in inputs["input_ids"][0]].index(word)
                best = model(**inputs).logits[0, place].argmax()
                right[kind].append(tokenizer.decode(best) == animal)
    return {kind: f"{sum(found)} of {len(found)}" for kind, found in right.items()}


print("80/10/10   ", judge(model))
print("only masks ", judge(only_masks))

# %% [markdown]
# At masks both are right. At words that are there, only the first notices when one is wrong. The second, which was
# never asked about such a place, often does not even confirm a word that is right: it has learnt a task that ends
# with training. This is one small run, in which the difference is large; in large models [it was found to be
# small](https://arxiv.org/abs/2202.08005), with masks alone no worse for what comes after.
#
# ## What the embeddings have learnt
#
# Each token begins with a random vector. Training moves those together that can stand in the same places. Two
# principal components of the vectors, before and after:

# %% alt="Two scatter plots of words: mixed before training, in groups of animals, colours, foods and so on after"
groups = {"animals": [*animals], "colours": colours}
groups |= dict(zip(("sounds", "foods", "homes"), map(list, zip(*animals.values(), strict=True)), strict=True))
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
for axis, (title, table) in zip(
    axes, {"before": untrained, "after": model.get_input_embeddings().weight.detach()}.items(), strict=True
):
    words = [(group, word) for group, members in groups.items() for word in members]
    vectors = torch.stack([table[tokenizer(word)["input_ids"][1:-1]].mean(0) for _, word in words])
    vectors = vectors - vectors.mean(0)
    flat = vectors @ torch.linalg.svd(vectors, full_matrices=False).Vh[:2].T
    for number, group in enumerate(groups):
        chosen = torch.tensor([name == group for name, _ in words])
        axis.scatter(*flat[chosen].T, s=14, color=f"C{number}", label=group)
    for (_, word), (x, y) in zip(words, flat.tolist(), strict=True):
        axis.annotate(word, (x, y), fontsize=6)
    axis.set_title(title, fontsize=9)
axes[1].legend(fontsize=7)
plt.show()

# %% [markdown]
# Nobody told the model that there are animals, colours or sounds: it saw which words are missing in the same places.
# And within each group the order is alike: what belongs to the bird, the cow and the dog lies to the right, be it
# sound, food or home. In the second question above it has learnt less than that: in our language two animals of a
# sentence never have the same colour, and it still gives white, which is taken, a quarter.
#
# On real text `trine pretrain --objective masked --files FOLDER --whole_words tokenizer` does all of this
# ([Pretrain](../how-to/pretrain.md#objectives)); what an encoder is good for comes with
# [fine-tuning](../how-to/fine-tune.md) and [embeddings](../how-to/embeddings.md). Next: [the Transformer of
# 2017](translation.md), in which one stack reads and another writes.
