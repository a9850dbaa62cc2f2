"""A decoder reads both ways."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from ...configuration.configuration_trine import TrineConfig
from ...configuration.sharding_plans import tensor_parallel_plan
from ...modeling.heads.causal_lm import TrineForCausalLM
from ...modeling.heads.masked_lm import TrineForMaskedLM
from ...modeling.modeling_trine import TrineModel
from ..companions import GENERATION, TOKENIZER
from .base import Lift
from .weights import build, class_options, copy_tensors


# Of kinds that a decoder cuts to the past, what their fields become, so that they reach as far ahead as back.
MIRRORED: dict[str, dict[str, Callable[[int], int]]] = {
    "sliding": {"sliding_window": lambda size: size - 1},
    "simplicial": {
        "simplicial_window": lambda size: 2 * size - 1,
        "simplicial_second_window": lambda size: 2 * size - 1,
    },
    "bigbird": {
        "bigbird_num_window_blocks": lambda count: 2 * count - 1,
        "bigbird_num_global_blocks": lambda count: 2 * count,
    },
}


@dataclass
class EncoderLift(Lift):
    """Lets a decoder read both ways, to be trained on by masked next tokens, and by contrast for embeddings.

    Every token sees those after it as far as those before it, with the same weights; what a decoder learned about
    distances back holds ahead, too. So the function changes, for all texts of more than one token. The head of a
    decoder fills masked tokens in: the state before a token predicts it, as it did.
    Source: BehnamGhader et al. 2024, LLM2Vec, arXiv 2404.05961, section 2.
    """

    kind = "encoder"
    becomes = "a decoder reads both ways, and its head fills masked tokens in"
    stays = "the weights, not the function: texts of one token"
    source = "BehnamGhader et al. 2024, arXiv 2404.05961"
    keeps_function = False

    bare: bool = field(default=False, metadata={"help": "Leave the head away: the bare TrineModel."})
    mask_token: str = field(
        default="[MASK]",
        metadata={
            "help": "Token that is added to a tokenizer without a mask token; its row is the mean of the others."
        },
    )

    def apply(self, model: Any) -> Any:
        """Makes the encoder of a decoder.

        Raises:
            ValueError: The model is no decoder by itself, or one of its kinds cannot read both ways.
        """
        trunks = [module for module in model.modules() if isinstance(module, TrineModel)]
        config = trunks[0].config
        if len(trunks) != 1 or not config.is_causal or config.add_cross_attention:
            raise ValueError(
                f"model is a {type(model).__name__} of {len(trunks)} stacks, is_causal={config.is_causal}, but the "
                "lift 'encoder' takes a decoder by itself."
            )
        has_head = isinstance(model, TrineForCausalLM)
        model_class = TrineForMaskedLM if has_head else type(model)
        old = model
        if self.bare:
            old, model_class = trunks[0], TrineModel
        lifted = build(model_class, self.make_config(config), model, **class_options(old))
        copy_tensors(old, lifted)
        mirror_distances(trunks[0], next(module for module in lifted.modules() if isinstance(module, TrineModel)))
        return lifted

    def make_config(self, decoder: TrineConfig) -> TrineConfig:
        """The config of the encoder."""
        config = deepcopy(decoder)
        config.is_causal, config.prefix_lm, config.masked_lm_head = False, False, "next_token"
        for kind, changes in MIRRORED.items():
            for name, change in changes.items():
                if kind in config.attention_types:
                    setattr(config, name, change(getattr(config, name)))
        if config.sliding_window == 0:
            raise ValueError(
                "sliding_window=1 of the decoder shows a token itself alone, and would so to each side: the lift "
                "'encoder' needs 2 or more."
            )
        if config.position_type == "relative":
            config.relative_attention_num_buckets *= 2  # half of an encoder's are for keys after the query
        config.base_model_tp_plan = tensor_parallel_plan(config)  # pyright: ignore[reportAttributeAccessIssue] per instance
        config.check()
        return config

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """One token, which sees itself alone in either."""
        return 1

    def finish(self, lifted: Any, folder: Path) -> None:
        """Adds the mask token to the tokenizer in `folder`, and its row to the model, where there is none yet.

        What was done, or what is missing, is printed.

        Raises:
            ValueError: The mask token is a token of texts.
        """
        (folder / GENERATION).unlink(missing_ok=True)
        if not (folder / TOKENIZER).is_file():
            print("There is no tokenizer: one with a mask token is needed to train masked next tokens.")
            return
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer.mask_token is not None:
            return
        if self.mask_token in tokenizer.get_vocab() and self.mask_token not in tokenizer.all_special_tokens:
            raise ValueError(f"mask_token={self.mask_token!r} is a token of texts already; choose another.")
        tokenizer.add_special_tokens({"mask_token": self.mask_token})
        tokenizer.save_pretrained(folder)
        add_row(lifted, int(tokenizer.mask_token_id))
        print(f"The tokenizer had no mask token: {self.mask_token!r} is added, with id {tokenizer.mask_token_id}.")


@torch.no_grad()
def mirror_distances(old: TrineModel, new: TrineModel) -> None:
    """Fills what a table holds for keys after the query with what it holds for those as far before it."""
    if old.config.position_type == "relative":
        table = old.positions.relative_attention_bias.weight
        new.positions.relative_attention_bias.weight.copy_(torch.cat([table, table]))
    layers: Any = zip(old.layers, new.layers, strict=True)
    for before, after in layers:
        bias = getattr(before.self_attn, "offset_bias", None)
        if bias is not None:
            after.self_attn.offset_bias.copy_(torch.cat([bias, bias.flip(1)[:, 1:]], dim=1))


@torch.no_grad()
def add_row(model: Any, token: int) -> None:
    """Makes the embedding of a token, and its row of a head, the mean of the others; the vocabulary grows for it."""
    known = model.config.vocab_size
    if token >= known:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    for table in {id(each.weight): each for each in tables if each is not None}.values():
        table.weight[token] = table.weight[: min(token, known)].mean(dim=0)
