"""List what can be chosen: the kinds of layers, the presets, the families that are converted, the commands."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trine.configuration.configuration_trine import TrineConfig
from trine.configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from trine.configuration.input_kinds import INPUT_KINDS
from trine.configuration.kinds import (
    ATTENTION_KINDS,
    FEED_FORWARD_KINDS,
    LINEAR_FEATURE_MAPS,
    POSITION_KINDS,
    ROUTER_KINDS,
    TRILINEAR_KINDS,
)
from trine.configuration.presets import PRESETS, SEQ2SEQ_PRESETS
from trine.conversion.families.table import FAMILIES
from trine.scripts.arguments.parsing import parse_arguments, unknown_name
from trine.scripts.cli import find_scripts, summary_of


TABLES = {
    "input_type": INPUT_KINDS,
    "attention_types": ATTENTION_KINDS,
    "position_type": POSITION_KINDS,
    "mlp_layer_types": FEED_FORWARD_KINDS,
    "router_type": ROUTER_KINDS,
    "simplicial_form": TRILINEAR_KINDS,
    "linear_feature_map": LINEAR_FEATURE_MAPS,
}


def list_kinds() -> list[str]:
    """A line per kind, under the field that chooses it."""
    lines = []
    for name, kinds in TABLES.items():
        lines.append(f"{name}:")
        for kind, row in kinds.items():
            cost = getattr(row.about, "cost", None)
            lines.append(f"  {kind:12}{f'{cost:34}' if cost else ''}{row.about.source}")
    return lines


def list_presets() -> list[str]:
    """A line per preset: its shape, layers and width."""
    lines = []
    for name in PRESETS:
        config = TrineConfig.from_preset(name)
        shape = "decoder" if config.is_causal else "encoder"
        lines.append(f"{name:18}{shape}, {_size(config)}")
    for name in SEQ2SEQ_PRESETS:
        config = TrineSeq2SeqConfig.from_preset(name)
        lines.append(f"{name:18}encoder-decoder, {_size(config.encoder)}; {_size(config.decoder)}")
    return lines


def _size(config: TrineConfig) -> str:
    return f"{config.num_hidden_layers} layers, {config.hidden_size} wide"


def list_families() -> list[str]:
    """A line per family of transformers: its `model_type` and its classes."""
    return [f"{name:14}{', '.join(head.source for head in family.heads)}" for name, family in FAMILIES.items()]


def list_commands() -> list[str]:
    """A line per command."""
    return [f"{name:22}{summary_of(module)}" for name, module in find_scripts().items()]


LISTS: dict[str, Callable[[], list[str]]] = {
    "kinds": list_kinds,
    "presets": list_presets,
    "families": list_families,
    "commands": list_commands,
}


@dataclass
class ListArguments:
    """Options of `trine list`."""

    what: str = field(metadata={"help": f"One of {', '.join(LISTS)}; it may stand first, without its name."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine list` with these arguments, by default the process's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--what", *argv]
    (arguments,) = parse_arguments([ListArguments], argv, command="list", description=__doc__)
    if arguments.what not in LISTS:
        sys.exit(f"trine list: {unknown_name('list', arguments.what, LISTS)}")
    print("\n".join(LISTS[arguments.what]()))


if __name__ == "__main__":
    main()
