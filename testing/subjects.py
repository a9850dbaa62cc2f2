"""The mechanism that is checked, and the small models that use it: alone, beside another, as decoder and encoder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..configuration.configuration_trine import TrineConfig
from ..configuration.kinds import KIND_TABLES
from ..configuration.patterns import suggest
from ..configuration.plugin_files import load_plugin, source_of
from ..configuration.plugin_rows import PLUGINS
from ..modeling.attention.table import ATTENTIONS
from ..modeling.feed_forward.routers import ROUTERS
from ..modeling.feed_forward.table import FEED_FORWARDS
from ..modeling.heads.causal_lm import TrineForCausalLM
from ..modeling.modeling_trine import TrineModel
from ..modeling.positions.table import POSITIONS


MECHANISMS = {
    "attention_types": ATTENTIONS,
    "position_type": POSITIONS,
    "mlp_layer_types": FEED_FORWARDS,
    "router_type": ROUTERS,
}
# Small, and such that windows roll, and chunks, blocks and buckets fill within a few tokens.
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "sliding_window": 4,
    "attention_chunk_size": 4,
    "simplicial_window": 4,
    "simplicial_second_window": 3,
    "performer_num_features": 12,
    "bigbird_block_size": 2,
    "bigbird_num_random_blocks": 1,
    "lsh_chunk_length": 4,
    "lsh_num_buckets": 4,
    "lsh_num_hashes": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "pad_token_id": 0,
    "attn_implementation": "sdpa",
}


@dataclass(frozen=True)
class Subject:
    """A registered mechanism.

    Attributes:
        field: The config field that names it: `attention_types`, `position_type`, `mlp_layer_types`, `router_type`.
        name: What a config calls it.
        fields: Other config fields of the models, over those of `SIZES`.
        oracle: Function of a module and hidden states (batch, length, hidden), in float64, that computes the output,
            or for routers logits, weights and indices of (tokens, hidden).
    """

    field: str
    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    oracle: Callable[..., Any] | None = None

    @property
    def row(self) -> Any:
        return KIND_TABLES[self.field][self.name]

    @property
    def mechanism(self) -> Any:
        return MECHANISMS[self.field][self.name]

    @property
    def file(self) -> str | None:
        """The file of the class, or None for one that was typed into a session."""
        path = source_of(self.mechanism)
        return None if path is None else str(path)

    @property
    def shareable(self) -> bool:
        """Whether a checkpoint takes the mechanism along."""
        own = [plugin for plugin in PLUGINS if (plugin.field, plugin.name) == (self.field, self.name)]
        return all(plugin.shareable and self.file is not None for plugin in own)

    def layouts(self) -> dict[str, dict[str, Any]]:
        """The config fields of models with the mechanism, alone and beside another one."""
        if self.field == "position_type":
            alone = {"position_type": self.name}
            return (
                {"": alone}
                if self.row.adds_bias
                else {"": alone, "linear attention": alone | {"attention_types": "linear"}}
            )
        if self.field == "router_type":
            sparse = {"router_type": self.name, "mlp_layer_types": "sparse"}
            return {"alone": sparse, "beside dense layers": sparse | {"mlp_layer_types": "dense, sparse"}}
        other = "full" if self.field == "attention_types" else "dense"
        alone = {"alone": {self.field: self.name}}
        return alone if self.name == other else alone | {f"beside {other!r}": {self.field: f"{other}, {self.name}"}}

    def cases(self, encoders: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each layout as a decoder, and as an encoder where it may be one: a description, and the config fields."""
        shapes = ["decoder"]
        if encoders and not getattr(self.row, "causal_only", False):
            shapes.append("encoder")
        for shape in shapes:
            for layout, fields in self.layouts().items():
                yield f"{shape} {layout}".strip(), {**fields, "is_causal": shape == "decoder"}

    def first(self) -> dict[str, Any]:
        """The config fields of a decoder with nothing but the mechanism."""
        return next(self.cases())[1]

    def last(self) -> dict[str, Any]:
        """Those of a decoder with another one beside it, where there is another."""
        return [*self.cases(encoders=False)][-1][1]

    def config(self, **fields: Any) -> TrineConfig:
        return TrineConfig(**{**SIZES, **self.fields, **fields})

    def build(self, *, dtype: torch.dtype = torch.float64, seed: int = 0, **fields: Any) -> Any:
        """A model as it is made, in evaluation mode."""
        config = self.config(**{"experts_implementation": "eager", **fields})
        torch.manual_seed(seed)
        model_class: Any = TrineForCausalLM if config.is_causal else TrineModel
        return model_class(config).to(dtype).eval()

    def model(self, **options: Any) -> Any:
        """A model all of whose parameters are random, and whose projections are large, so that errors show."""
        model = self.build(**options)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
                parameter.mul_(4.0 if parameter.dim() > 1 else 1.0).add_(noise, alpha=0.05)
        return model

    def parts(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules of the mechanism in a model."""
        trunk: Any = getattr(model, "model", model)
        if self.field == "position_type":
            return [trunk.positions]
        layers, config = list(trunk.layers), trunk.config
        if self.field == "attention_types":
            pairs = zip(layers, config.attention_types, strict=True)
            return [layer.self_attn for layer, kind in pairs if kind == self.name]
        kind = self.name if self.field == "mlp_layer_types" else "sparse"
        found = [layer.mlp for layer, other in zip(layers, config.mlp_layer_types, strict=True) if other == kind]
        return found if self.field == "mlp_layer_types" else [mlp.gate for mlp in found]


def find_subjects(what: Any, oracle: Callable[..., Any] | None = None, **fields: Any) -> list[Subject]:
    """The registered mechanisms that are meant.

    Args:
        what: A class; `FILE.py:CLASS`; `FILE.py`, for all that it registers; or a name that a config has for it.
        oracle: See `Subject`.
        fields: Config fields of the models that are made.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Nothing of that name is registered.
    """
    if isinstance(what, str) and ".py" in what:
        file, _, name = what.partition(":")
        module = load_plugin(file)
        meant = [plugin for plugin in PLUGINS if plugin.mechanism.__module__ == module.__name__]
        if name:
            if not hasattr(module, name):
                raise ValueError(f"{file} has no {name!r}.{suggest(name, list(vars(module)))}")
            meant = [plugin for plugin in meant if plugin.mechanism is getattr(module, name)]
        if not meant:
            raise ValueError(
                f"{what} registers no mechanism: write `@register_attention(NAME)` above its class, or another of "
                "trine's functions `register_...`."
            )
        found = [(plugin.field, plugin.name) for plugin in meant]
    elif isinstance(what, str):
        found = [(table, what) for table, rows in KIND_TABLES.items() if what in rows]
        if not found:
            known = [name for rows in KIND_TABLES.values() for name in rows]
            raise ValueError(
                f"{what!r} is not one of {known}.{suggest(what, known)} For one in a file, write FILE.py:CLASS."
            )
    else:
        found = [(plugin.field, plugin.name) for plugin in PLUGINS if plugin.mechanism is what]
        if not found:
            raise ValueError(f"{what!r} is not registered: write `@register_attention(NAME)` above the class.")
    return [Subject(table, name, fields, oracle) for table, name in found]


def is_file(what: str) -> bool:
    """Whether a text names a file, or a class in one."""
    return Path(what.partition(":")[0]).suffix == ".py"


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Ids other than those of special tokens."""
    return torch.randint(3, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def output_of(outputs: Any) -> torch.Tensor:
    """Logits, or the hidden states of a model without a head."""
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state
