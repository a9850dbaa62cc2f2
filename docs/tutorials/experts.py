# %% [markdown]
# # Experts, and who visits them
#
# In a mixture of experts the feed-forward of a layer is there several times, and a router sends each token to one or
# two of them. The model has many parameters, of which a token uses few. This page trains such models on texts in
# three kinds of writing, watches the router while it learns, with and without what keeps it balanced, and draws
# which expert is visited by what.

# %%
import random

import matplotlib.pyplot as plt
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from trine import TrineConfig, TrineForCausalLM, train_wordpiece
from trine.inspection import experts_by_tag
from trine.training import ExpertLoadCallback


# %% [markdown]
# ## Texts of three kinds
#
# A sum in digits, the same in English and in Chinese. We know of each word which kind it is, and keep that as its
# tag.

# %%
small = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
small += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"]
hanzi = [*"零一二三四五六七八九十", *("十" + digit for digit in "一二三四五六七八")]


def text():
    a, b = random.randint(0, 9), random.randint(0, 9)
    parts = {
        "digits": [str(a), "+", str(b), "=", str(a + b), ";"],
        "English": [small[a], "plus", small[b], "is", small[a + b], "."],
        "Chinese": [*hanzi[a], "加", *hanzi[b], "等", "于", *hanzi[a + b], "。"],
    }
    order = random.sample([*parts], 3)
    return [word for kind in order for word in parts[kind]], [kind for kind in order for _ in parts[kind]]


set_seed(0)
records = [text() for _ in range(6000)]
print(*(" ".join(words) for words, _ in records[:3]), sep="\n")
tokenizer = train_wordpiece([" ".join(words) for words, _ in records], vocab_size=200, show_progress=False)
texts = [" ".join(words) for words, _ in records]
encoded = tokenizer(texts, padding="max_length", max_length=24, truncation=True)
rows = []
for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True):
    labels = [token if real else -100 for token, real in zip(ids, mask, strict=True)]
    rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})

# %% [markdown]
# ## The router, left alone
#
# Four experts in each of two layers, one for each token. The router is a matrix: its scores, as probabilities, weigh
# the output of the expert that has the most. Whoever is chosen gets the gradient and gets better, and is chosen
# more. `ExpertLoadCallback` counts who is visited while the model trains.


# %%
def train(**router):
    set_seed(0)
    config = TrineConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        mlp_layer_types="sparse",
        num_experts=4,
        num_experts_per_tok=1,
        moe_intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
        **router,
    )
    arguments = TrainingArguments(
        output_dir="run",
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=TrineForCausalLM(config),
        args=arguments,
        train_dataset=rows[500:],
        eval_dataset=rows[:500],
        callbacks=[ExpertLoadCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


steps = 400  # small: 20
ways = {
    "alone": {"router_aux_loss_coef": 0.0},
    "with a balancing loss": {"router_aux_loss_coef": 0.02},
    "with a bias": {"router_type": "sigmoid", "router_aux_loss_coef": 0.0, "router_bias_update_rate": 0.01},
}
trainers = {"alone": train(**ways["alone"])}


# %% alt="For each of two layers, bands that show the share of each of four experts over the training steps"
def draw_load(name):
    history = [entry for entry in trainers[name].state.log_history if "expert_load" in entry]
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.2), sharey=True)
    for layer, axis in enumerate(axes):
        shares = torch.tensor([entry["expert_load"][layer] for entry in history])
        axis.stackplot([entry["step"] for entry in history], shares.T, labels=[f"expert {n}" for n in range(4)])
        axis.set_title(f"{name}: layer {layer}", fontsize=8)
        axis.set_ylim(0, 1)


draw_load("alone")
plt.show()

# %% [markdown]
# In the first steps the bands move: an expert takes what another leaves. Then they stay as they are, uneven, but
# none is without visitors. That is not always so: in larger models some experts [can end up with nearly
# everything](https://arxiv.org/abs/1701.06538), and the others are parameters for nothing. And where experts stand
# on different machines, the busiest one lets all others wait.
#
# ## What keeps the balance
#
# *A loss*: the share of tokens of each expert times its mean probability, summed, is smallest when all are even
# ([Fedus et al. 2021](https://arxiv.org/abs/2101.03961)). It pulls at the same weights as the task does. *A bias*:
# added to the scores when experts are chosen, and nowhere else, and moved between steps towards those that were idle
# ([DeepSeek-AI 2024](https://arxiv.org/abs/2412.19437)). No gradient takes part in it.

# %% alt="The bands of four experts over the steps, nearly even, of the model with a balancing loss"
trainers["with a balancing loss"] = train(**ways["with a balancing loss"])
draw_load("with a balancing loss")
plt.show()

# %% alt="The bands of four experts over the steps of the model whose router has a bias"
trainers["with a bias"] = train(**ways["with a bias"])
draw_load("with a bias")
plt.show()

# %%
for name, trainer in trainers.items():
    load = [entry["expert_load_worst"] for entry in trainer.state.log_history if "expert_load_worst" in entry]
    print(
        f"{name:22} held-out loss {trainer.evaluate()['eval_loss']:.3f}, busiest expert {load[-1]:.2f} times the mean"
    )

# %% [markdown]
# Both do what they promise: the busiest expert of the worst layer has little more than the mean. And here both cost
# something: the model that was left alone has the lowest loss. With three kinds of text and four experts an even
# load is not what the task asks for. Balance is for the machines, and for runs that would collapse; one wants as
# little of it as does.
#
# ## Who visits whom
#
# We ask for each kind of word how its visits are shared among the experts. A row sums to 1; the first is that of all
# words.

# %% alt="Heat maps of experts by kind of word, two layers for each of the three models"
figure, axes = plt.subplots(3, 2, figsize=(8, 6))
for row, (name, trainer) in zip(axes, trainers.items(), strict=True):
    maps, _ = experts_by_tag(trainer.model, tokenizer, records[:500])
    for axis, item in zip(row, maps, strict=True):
        axis.imshow(item.weights[0], cmap="Blues", vmin=0, vmax=1)
        axis.set_yticks(range(len(item.rows)), item.rows, fontsize=7)
        axis.set_xticks(range(4), [name.removeprefix("expert ") for name in item.columns], fontsize=7)
        axis.set_title(f"{name}: layer {item.layer}", fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# The router was never told the kinds. Left alone it has found them all the same: most of Chinese goes to one expert,
# in both layers, and digits of the second layer to another. The balancing loss blurs that, since it asks each expert
# to be visited as much as any other; the bias keeps more of it. But the picture is one of shares and not of
# meanings: what an expert has learnt for its visitors it does not show.
#
# `trine inspect --tagged words.jsonl` draws these maps of any model with experts ([Inspect](../how-to/inspect.md));
# the routers there are, and what experts gain on real text, are on the page of [the other
# parts](../concepts/parts.md#feed-forwards-and-experts). Next: [2-simplicial attention](simplicial.md).
