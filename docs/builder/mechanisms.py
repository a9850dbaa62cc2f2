"""The heads of the pages of mechanisms: what is fact, made from the row, the class and the module of a kind.

A page, `docs/concepts/mechanisms/FIELD/NAME.md`, says when to use the kind and when not. `<!-- mechanism -->` stands
for what is made here: a table, a picture, and the code itself.
"""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from chinese import cell_in_chinese
from tables import ROOT, code, linked

from trine import TrineConfig, TrineModel
from trine.configuration.kinds import KIND_TABLES
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.feed_forward.experts import SparseMLP
from trine.modeling.feed_forward.mlp import GatedMLP
from trine.modeling.feed_forward.routers import SigmoidRouter, SoftmaxRouter
from trine.modeling.positions.rope import TrineRotaryEmbedding
from trine.modeling.positions.table import POSITIONS


FOLDER = "concepts/mechanisms"
SOURCES = ROOT / "docs" / FOLDER
MARK = "<!-- mechanism -->"
CLASSES: dict[str, Mapping[str, Any]] = {
    "attention_types": ATTENTIONS,
    "mlp_layer_types": {"dense": GatedMLP, "sparse": SparseMLP},
    "position_type": {**{name: POSITIONS[name] for name in POSITIONS}, "rope": TrineRotaryEmbedding},
    "router_type": {"softmax": SoftmaxRouter, "sigmoid": SigmoidRouter},
}
FACTS = ("cost", "cache", "beyond", "weights", "balance")
LABELS = {
    "en": {
        "chosen": "chosen by",
        "cost": "cost of a layer",
        "cache": "cache",
        "beyond": "beyond the trained length",
        "weights": "weights of the chosen experts",
        "balance": "balance",
        "fields": "its fields",
        "source": "source",
        "file": "code",
        "shown": "The code",
        "picture": "What a token sees, {}",
        "decoder": "in a decoder",
        "encoder": "in an encoder",
    },
    "zh": {
        "chosen": "选择方式",
        "cost": "一层的开销",
        "cache": "缓存",
        "beyond": "超出训练长度时",
        "weights": "所选专家的权重",
        "balance": "均衡",
        "fields": "专用字段",
        "source": "来源",
        "file": "代码",
        "shown": "代码",
        "picture": "一个 token 看得见什么，{}",
        "decoder": "解码器中",
        "encoder": "编码器中",
    },
}
# Of the picture: sizes with which 48 tokens show what a kind is.
LENGTH = 48
SIZES = {
    "sliding": {"sliding_window": 12},
    "chunked": {"attention_chunk_size": 12},
    "simplicial": {"simplicial_window": 24, "simplicial_second_window": 4},
    "bigbird": {"bigbird_block_size": 4, "bigbird_num_random_blocks": 1},
    "lsh": {"lsh_chunk_length": 4, "lsh_num_buckets": 8, "lsh_num_hashes": 1},
}


def kinds() -> Iterator[tuple[str, str]]:
    """Field and name of every kind that has a page."""
    for field, rows in KIND_TABLES.items():
        for name in CLASSES[field]:
            if name in rows:
                yield field, name


def place(field: str, name: str) -> str:
    """Where the page of a kind is."""
    return f"{FOLDER}/{field}/{name}.md"


def head(field: str, name: str, language: str = "en") -> str:
    """What a page says of a kind by its row, class and module."""
    labels, about, module = LABELS[language], KIND_TABLES[field][name].about, module_of(field, name)
    said = cell_in_chinese if language == "zh" else str
    path = Path(inspect.getsourcefile(module) or "").relative_to(ROOT)
    value = name if field in ("position_type", "router_type") else f"{name}*4"
    rows = [(labels["chosen"], code(f'TrineConfig({field}="{value}")'))]
    facts = {fact: getattr(about, fact, None) for fact in FACTS}
    # Of an attention, `weights` are the fields that its weights depend on, and no sentence.
    rows += [(labels[fact], said(text)) for fact, text in facts.items() if isinstance(text, str)]
    if about.fields:
        fields = ", ".join(f"[{code(each)}](../../../reference/configuration.md)" for each in about.fields)
        rows.append((labels["fields"], fields))
    rows += [(labels["source"], linked(about.source)), (labels["file"], code(path.as_posix()))]
    first, *others = (f"| {label} | {text.replace('|', chr(92) + '|')} |\n" for label, text in rows)
    parts = [f"{first}| --- | --- |\n{''.join(others)}"]
    if field in PICTURES and name in PICTURES[field]:
        alt = labels["picture"].format(code(name)) if field == "attention_types" else name
        parts.append(f"![{alt}]({name}.png)\n")
    source = inspect.getsource(module).replace("\n", "\n    ").rstrip()
    parts.append(f'??? note "{labels["shown"]}: {code(path.as_posix())}"\n\n    ```python\n    {source}\n    ```\n')
    return "\n".join(parts)


def class_of(field: str, name: str) -> Any:
    """The class of a kind, or the function that makes it."""
    return CLASSES[field][name]


def module_of(field: str, name: str) -> Any:
    """The module of a kind."""
    return inspect.getmodule(class_of(field, name))


def picture(figure: Any) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return file.getvalue()


def seen(name: str, is_causal: bool) -> torch.Tensor:
    """Whether token k changes the output of token q, (q, k), by the gradient of a model of one layer."""
    torch.manual_seed(0)
    config = TrineConfig.from_preset(
        "tiny", vocab_size=64, num_hidden_layers=1, attention_types=name, is_causal=is_causal, **SIZES.get(name, {})
    )
    inputs = torch.randn(1, LENGTH, config.hidden_size, requires_grad=True)
    outputs = TrineModel(config)(inputs_embeds=inputs).last_hidden_state[0]
    rows = [torch.autograd.grad(row.square().sum(), inputs, retain_graph=True)[0][0] for row in outputs]
    return torch.stack(rows).abs().sum(-1) > 0


def draw_attention(name: str) -> bytes:
    """What a token sees, in a decoder and in an encoder."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2))
    for axis, shape in zip(axes, ("decoder", "encoder"), strict=True):
        axis.imshow(seen(name, shape == "decoder"), cmap="Blues", vmin=0, vmax=1.2)
        axis.set(title=shape, xlabel="key", ylabel="query")
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    return picture(figure)


def draw_rope(name: str) -> bytes:
    """The score of a query and an equal key against their distance, of heads of 64."""
    config = TrineConfig.from_preset("tiny", vocab_size=64, head_dim=64)
    cosines = TrineRotaryEmbedding(config)(torch.zeros(1, 1, 1), torch.arange(256)[None])[0][0]
    figure, axis = plt.subplots(figsize=(5, 2.4))
    axis.plot(cosines.mean(-1).numpy())  # for equal vectors with equal features
    axis.set(xlabel="distance", ylabel="mean cosine", title="score of equal vectors")
    return picture(figure)


def draw_sinusoidal(name: str) -> bytes:
    """The vectors that are added, position by feature."""
    positions, features = np.arange(64)[:, None], np.arange(64)[None]
    angles = positions / 10000 ** (2 * (features // 2) / 64)
    figure, axis = plt.subplots(figsize=(4.6, 3.2))
    axis.imshow(np.where(features % 2 == 0, np.sin(angles), np.cos(angles)), cmap="RdBu", aspect="auto")
    axis.set(xlabel="feature", ylabel="position")
    return picture(figure)


PICTURES: dict[str, dict[str, Callable[[str], bytes]]] = {
    "attention_types": dict.fromkeys(ATTENTIONS, draw_attention),
    "position_type": {"rope": draw_rope, "sinusoidal": draw_sinusoidal},
}


def files() -> dict[str, bytes]:
    """The pictures of all kinds, by their places."""
    return {
        f"{FOLDER}/{field}/{name}.png": draw(name) for field, rows in PICTURES.items() for name, draw in rows.items()
    }


def expand(text: str, place: str, language: str) -> str:
    """A page with its head in place of the mark that asks for it."""
    if MARK not in text:
        return text
    field, name = Path(place).parts[-2:]
    return text.replace(MARK, head(field, name.split(".")[0], language))
