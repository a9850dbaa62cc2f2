# %% [markdown]
# # From text to a language model in three minutes
#
# A language model is given the beginning of a text and says which token comes next. This page makes one from
# nothing: it takes text that every Python brings along, learns a vocabulary, trains a decoder, compares it with
# models that only count, lets it write, and saves it as a folder that `AutoModelForCausalLM` loads.

# %%
import math

import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainingArguments, set_seed

from trine import TrineConfig, TrineForCausalLM, train_byte_level_bpe
from trine.scripts.datasets.python_corpus import collect_python_documents
from trine.training import MuonFactory, PackedBlocks, ngram_losses


documents = collect_python_documents()  # the language reference and the docstrings of the standard library
count = len(documents)  # small: 120
documents = documents[:count]
print(len(documents), "documents,", sum(map(len, documents)), "characters")

# %% [markdown]
# ## Tokens
#
# Byte-level BPE begins with the 256 bytes and joins the most frequent pairs of neighbours, again and again, until
# the vocabulary is full. Frequent words end up as one token, rare ones as several, and no text is unknown.

# %%
vocabulary = 2048  # small: 512
tokenizer = train_byte_level_bpe(documents, vocabulary, show_progress=False)
ids = tokenizer("If the argument is missing, raise a TypeError.")["input_ids"]
print([tokenizer.decode(token) for token in ids])

# %% [markdown]
# Now the documents become one long stream of tokens, with a token between them that says "the end". Every twentieth
# is held out: whether a model has understood anything shows on text that it has not seen. The stream is cut into
# blocks of 128 tokens.

# %%
block_length = 128


def blocks(texts):
    rows = tokenizer([text + tokenizer.eos_token for text in texts])["input_ids"]
    return PackedBlocks(torch.tensor([token for row in rows for token in row]), block_length)


held_out = blocks(documents[::20])
training = blocks([text for number, text in enumerate(documents) if number % 20])
print(len(training), "blocks to learn from,", len(held_out), "held out")

# %% [markdown]
# ## What counting reaches
#
# Loss is the mean surprise at the token that really came, in nats: minus the logarithm of the probability that it
# was given. Who knows nothing has the logarithm of the size of the vocabulary. A *unigram* model knows how frequent
# each token is, a *bigram* model also which token follows which. A network that is not below the bigram has wasted
# our time.

# %%
counted = ngram_losses(training.blocks.flatten(), held_out.blocks, len(tokenizer))
baselines = {"a guess": math.log(len(tokenizer)), "unigram": counted.unigram, "bigram": counted.bigram}
print({name: round(loss, 2) for name, loss in baselines.items()})

# %% [markdown]
# ## A decoder
#
# The config is the whole architecture. Four layers; the first two look 32 tokens back, the others at everything
# before ([all kinds](../concepts/attention.md)). Normalised queries and keys and larger initial weights let so
# narrow a model learn faster.

# %%
set_seed(0)
config = TrineConfig(
    vocab_size=len(tokenizer),
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    attention_types="sliding*2, full*2",
    sliding_window=32,
    max_position_embeddings=256,
    qk_norm=True,
    scale_embedding=True,
    initializer_range=0.06,
    bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id,
)
model = TrineForCausalLM(config)
print(f"{model.num_parameters():,} parameters")

# %% [markdown]
# `Trainer` is that of transformers. Trine adds the optimizer [Muon](../how-to/pretrain.md#watch), which learns more
# from each step than Adam at this size.

# %%
steps = 600  # small: 8
arguments = TrainingArguments(
    output_dir="run",
    max_steps=steps,
    per_device_train_batch_size=8,
    per_device_eval_batch_size=32,
    lr_scheduler_type="linear",
    logging_steps=max(1, steps // 40),
    eval_strategy="steps",
    eval_steps=max(1, steps // 8),
    save_strategy="no",
    report_to="none",
    use_cpu=not torch.cuda.is_available(),
    disable_tqdm=True,
)
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=training,
    eval_dataset=held_out,
    optimizer_cls_and_kwargs=(MuonFactory, {"lr": 1.2e-2}),
)
trainer.remove_callback(PrinterCallback)  # the picture tells more
before = trainer.evaluate()["eval_loss"]
trainer.train()
after = trainer.evaluate()["eval_loss"]
print(f"held-out loss {before:.2f} before training, {after:.2f} after")

# %% alt="Loss against steps: two falling curves and three horizontal lines, of a guess, unigrams and bigrams"
history = trainer.state.log_history
figure, axis = plt.subplots(figsize=(6, 3.5))
for key, label in (("loss", "training"), ("eval_loss", "held out")):
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
for (name, loss), style in zip(baselines.items(), (":", "-.", "--"), strict=True):
    axis.axhline(loss, color="grey", linestyle=style, linewidth=1, label=name)
axis.set_xlabel("optimizer step")
axis.set_ylabel("nats per token")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# Read the picture from above. Before the first step the model is worse than a guess: its weights are random, and
# sure of nonsense. Within the first steps it falls below the unigram: it has learnt which tokens are frequent. Then
# come pairs, and what lies below the bigram is what attention adds: words that were said before, brackets that are
# open, the form of a docstring. Both curves still fall when the training ends, the one of the held-out text a little
# above the other: more steps would have helped.
#
# $e^{loss}$ is the *perplexity*: among how many equally likely tokens the model hesitates, so to speak.

# %%
print("perplexity", {name: round(math.exp(loss), 1) for name, loss in {**baselines, "our decoder": after}.items()})

# %% [markdown]
# ## Let it write
#
# The model gives probabilities; how to draw from them is our choice. A *temperature* below 1 sharpens them, towards
# what is likely and repeats itself; at 1 they are the model's own; above, the unlikely comes up more often.

# %%
length = 60  # small: 12
prompt = tokenizer("If the argument is", return_tensors="pt")
for temperature in (0.3, 0.7, 1.0, 1.5):
    set_seed(0)
    written = model.generate(**prompt, max_new_tokens=length, do_sample=True, temperature=temperature, top_k=0)
    print(f"--- temperature {temperature}\n{tokenizer.decode(written[0])}\n")

# %% [markdown]
# The language is that of documentation, the phrases are right, and the whole means little: a million parameters and
# two minutes know how such texts sound. What more text, time and parameters give is on the page of
# [pretraining](../how-to/pretrain.md#an-hour-of-english).
#
# ## Save it, load it
#
# The folder holds weights, config, tokenizer, and the code of this model in two files. Whoever has transformers can
# load it with `trust_remote_code=True`, without Trine.

# %%
model.save_pretrained("my-model")
tokenizer.save_pretrained("my-model")
again = AutoModelForCausalLM.from_pretrained("my-model")
words = AutoTokenizer.from_pretrained("my-model")
with torch.no_grad():
    inputs = words("Return the", return_tensors="pt")
    print("largest difference:", float((again(**inputs).logits - model.eval()(**inputs).logits).abs().max()))

# %% [markdown]
# The same from the command line, with more parts, pictures and measurements, is `trine demo`, and with your own text
# `trine pretrain --files FOLDER --output_dir my-model`. Next: [BERT, which reads both ways](masked.md).
