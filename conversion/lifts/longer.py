"""More positions than a model was trained with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...configuration.configuration_trine import TrineConfig
from ...configuration.patterns import check_choice
from .base import StackLift


# What transformers' scaling types need beside the factor and the number of positions in training. The waves of
# `llama3` are those of Llama 3.1 (Meta 2024, arXiv 2407.21783).
SCALINGS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "linear": {},
    "yarn": {},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
COUNTED = ("yarn", "llama3")  # those that name the number of positions in training


@dataclass
class LongerLift(StackLift):
    """Gives a model more positions.

    Rotary waves are scaled. Learned positions keep their rows, and the new rows begin as copies of them in order,
    again and again. The other encodings reach any length already, so that the number alone changes.
    Source: Chen et al. 2023, arXiv 2306.15595 (linear); Peng et al. 2023, YaRN, arXiv 2309.00071 (dynamic, yarn);
    rows: Beltagy et al. 2020, Longformer, arXiv 2004.05150, section 5.
    """

    kind = "longer"
    becomes = "more positions: scaled rotary waves, or more learned rows"
    stays = "up to the old length with `rope_type` `dynamic` (default) or learned rows"
    source = "Chen et al. 2023, arXiv 2306.15595; Peng et al. 2023, arXiv 2309.00071"

    max_position_embeddings: int | None = field(
        default=None, metadata={"help": "Tokens of the longest text, more than now. Needed."}
    )
    rope_type: str | None = field(
        default=None,
        metadata={
            "help": "How rotary waves are scaled. dynamic (default) computes the same up to the old length and scales "
            "with the text beyond it, so that the config keeps the old max_position_embeddings; linear, yarn and "
            "llama3 change short texts, too, and are meant to be trained on."
        },
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Raises the number of positions, and scales rotary waves."""
        old, new = config.max_position_embeddings, self.max_position_embeddings
        if new is None or new <= old:
            raise ValueError(
                f"max_position_embeddings={new} must be above {old}, the positions that the model has already."
            )
        if config.position_type == "rope":
            config.rope_parameters = self.scale_waves(config, new / old)
        elif self.rope_type is not None:
            raise ValueError(
                f"rope_type={self.rope_type!r} is read with position_type='rope' only, but the model has "
                f"position_type={config.position_type!r}. Leave it out."
            )
        if config.position_type != "rope" or self.scaling != "dynamic":
            config.max_position_embeddings = new
        return range(config.num_hidden_layers)

    @property
    def scaling(self) -> str:
        """The type of rotary scaling."""
        return self.rope_type or "dynamic"

    def scale_waves(self, config: TrineConfig, factor: float) -> dict[str, Any]:
        """The rotary parameters with scaled waves: of all layers, or of full attention if types differ."""
        check_choice("rope_type", self.scaling, SCALINGS)
        layer_type = "full_attention" if config.has_layered_rope else None
        parameters = dict(config.rope_parameters)
        if layer_type is not None:
            check_choice("layer type", layer_type, parameters)
        waves = dict(parameters[layer_type] if layer_type else parameters)
        if waves.get("rope_type", "default") != "default":
            raise ValueError(
                f"rope_parameters['rope_type']={waves['rope_type']!r} scales the waves already; the lift "
                "'longer' needs 'default'."
            )
        waves |= {"rope_type": self.scaling, "factor": factor, **SCALINGS[self.scaling]}
        if self.scaling in COUNTED:
            waves["original_max_position_embeddings"] = config.max_position_embeddings
        return {**parameters, layer_type: waves} if layer_type else waves

    @torch.no_grad()
    def fill(self, old: Any, new: Any) -> None:
        """Fills new rows of learned positions with copies of the old ones, in order."""
        if new.config.position_type == "learned":
            rows, new_rows = old.positions.embed_positions.weight, new.positions.embed_positions.weight
            new_rows.copy_(rows[torch.arange(len(new_rows), device=rows.device) % len(rows)])

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """The old number of positions; 0 if short texts change too, None if no text changes."""
        if before.position_type == "rope" and self.scaling != "dynamic":
            return 0
        return before.max_position_embeddings if before.position_type in ("rope", "learned") else None
