# %% [markdown]
# # Search, and answer with sources
#
# Words find names, vectors find what means the same. This page builds a small search by both, looks at what each
# adds to a score, measures how well the answers are found, and hands the documents to a decoder that answers by them
# and cites their numbers. The documents are the summaries of the modules of Python's standard library.

# %%
import ast
import math
import os
import sysconfig
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sentence_transformers import SentenceTransformer
from transformers import set_seed

from trine import TrineConfig, TrineForCausalLM, TrineModel, train_byte_level_bpe, train_wordpiece
from trine.retrieval import HybridSearch, cited_numbers, prompt_with_sources


documents = {}
for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8", errors="ignore"))) or ""
    if not path.stem.startswith("_") and len(said) > 40:
        documents[path.stem] = " ".join(said.split())[:400]
count = len(documents)  # small: 60
documents = dict(sorted(documents.items(), key=lambda item: (item[0] != "timeit", item[0]))[:count])
print(len(documents), "documents, such as", next(iter(documents.items())))

# %% [markdown]
# ## Words
#
# BM25 counts the words that a query and a document share; rare ones count more, and the tenth time a word comes
# counts little. It needs no model. Give vectors no weight, and it decides alone.
#
# The encoder behind the vectors is a converted MiniLM where `MINILM` names its folder ([start from
# MiniLM](start-from-minilm.md)), and otherwise a small one with random weights, whose vectors know hardly more than
# which tokens occur.

# %%
set_seed(0)
folder = os.environ.get("MINILM", "")
if not folder:
    folder = "some-encoder"
    tokenizer = train_wordpiece([*documents.values()], vocab_size=2000, show_progress=False)
    TrineModel(TrineConfig.from_preset("tiny", vocab_size=len(tokenizer), is_causal=False)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
encoder = SentenceTransformer(folder)
words = HybridSearch(encoder, documents, dense_weight=0.0, lexical_weight=1.0)
for hit in words.search("read and write files of comma separated values", k=3):
    print(f"{hit.score:.2f}  {hit.id}: {hit.text[:70]}")

# %% [markdown]
# ## Words and vectors
#
# Scores of BM25 have no upper bound, cosines have. Before they are added, both are put on the scale from 0 to 1 by
# the smallest and the largest of this query; 0.7 for vectors and 0.3 for words is the default. A hit tells what each
# has added.

# %% alt="Bars of the scores of five documents, in two parts, of vectors and of words"
both = HybridSearch(encoder, documents, dense_weight=0.7, lexical_weight=0.3)
query = "measure the time that small bits of code take"
hits = both.search(query, k=5)
figure, axis = plt.subplots(figsize=(6, 2.4))
names = [hit.id for hit in hits][::-1]
dense, lexical = ([getattr(hit, part) for hit in hits][::-1] for part in ("dense_part", "lexical_part"))
axis.barh(names, dense, label="vectors")
axis.barh(names, lexical, left=dense, label="words")
axis.set_xlabel("score")
axis.set_title(query, fontsize=9)
axis.legend(fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# ## How well does it find?
#
# One needs queries whose right answers are known. Here each document is asked for by its own second half, and only
# the first halves are searched. *nDCG@10* gives 1 for the right document in the first place, $1/\log_2(1 + r)$ in
# place $r$, and 0 from the eleventh on.


# %%
def halves(text):
    parts = text.split()
    return " ".join(parts[: len(parts) // 2]), " ".join(parts[len(parts) // 2 :])


first = {name: halves(text)[0] for name, text in documents.items()}
queries = {name: halves(text)[1] for name, text in documents.items()}


def gain(name, hits):
    place = [hit.id for hit in hits].index(name) + 1 if name in [hit.id for hit in hits] else None
    return 1 / math.log2(1 + place) if place else 0.0


results = {}
for label, dense_weight in (("words", 0.0), ("0.3", 0.3), ("0.7", 0.7), ("vectors", 1.0)):
    search = HybridSearch(encoder, first, dense_weight=dense_weight, lexical_weight=1 - dense_weight)
    results[label] = torch.tensor([gain(name, search.search(text, k=10)) for name, text in queries.items()])
    drawn = results[label][torch.randint(len(queries), (1000, len(queries)))].mean(1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).to(drawn)).tolist()
    print(f"{label:8} nDCG@10 {results[label].mean():.3f} ({low:.3f} to {high:.3f})")

# %% [markdown]
# The interval is that of the bootstrap: queries drawn anew a thousand times. With random weights, vectors alone are
# far worse than words, and a weight of 0.7 is too much for them; what 0.3 adds is within the interval. With trained
# ones both together are better than either: on 2,735 pairs MiniLM has 0.796, words have 0.800 and both 0.865
# ([Search](../how-to/search.md#how-scores-are-added)). Nobody knows beforehand which weights are right: measure on
# queries of your own, with `trine evaluate-retrieval`.
#
# ## Answer with sources
#
# A decoder can read what was found. `prompt_with_sources` numbers the documents, writes as many before the question
# as fit, and says so to the decoder; the numbers in its answer are looked up afterwards. This decoder has random
# weights and answers nonsense: what can be seen is what it is given. Put your own in its place.

# %%
question = "Which module measures the time of small bits of code?"
decoder_tokenizer = train_byte_level_bpe([*documents.values()], 600, show_progress=False, chat_template="chatml")
decoder = TrineForCausalLM(TrineConfig.from_preset("tiny", vocab_size=len(decoder_tokenizer)))
prompt = prompt_with_sources(decoder_tokenizer, question, words.search(question, k=2), max_tokens=400)
print(decoder_tokenizer.decode(prompt.token_ids))
ids = torch.tensor([prompt.token_ids])
output = decoder.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)
print("answer:", repr(decoder_tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)))

# %%
answer = "It is timeit [1], and not what the other source is about [2]. Others are said to exist [7]."
for number in cited_numbers(answer):
    source = prompt.sources[number - 1].id if number <= len(prompt.sources) else "no such source"
    print(f"[{number}] {source}")

# %% [markdown]
# That an answer cites a source does not say that the source holds it: read it. The commands are `trine index`,
# `trine search --explain`, `trine evaluate-retrieval` and `trine answer`; [Answer questions](../how-to/answer.md)
# tells what small models answer, and [Rerank](../how-to/rerank.md) puts what was found into a better order.
