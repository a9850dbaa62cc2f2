"""Per-layer choices: a name, a pattern or a list becomes one name per layer."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from .choices import Choices, in_package


MOST_LAYERS = 10_000
REGISTER = (
    " A mechanism of somebody's own needs its file first: trine.load_plugin(FILE), with commands --plugin FILE. For "
    "that beside a checkpoint's weights, if you trust it, FILE is the checkpoint."
)
# Of the fields that plugins add choices to.
ADVICE = in_package(
    dict.fromkeys(("attention_types", "mlp_layer_types", "position_type", "router_type"), REGISTER).items()
)


def suggest(value: object, choices: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the nearest choice, in whatever case, or "" where nothing is near."""
    lower = {str(choice).lower(): choice for choice in choices}
    near = get_close_matches(str(value)[:100].lower(), lower, n=1, cutoff=0.6)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""


def shorten(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names, and how many more there are, for messages."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def named_type(value: object) -> str:
    """Returns the type of a value with its article, as `an int`, for messages."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raises a `ValueError` that names field, value and choices unless `value` is one of `choices`."""
    names = list(choices)
    if value not in names:
        advice = (choices.advice(value) if isinstance(choices, Choices) else "") or suggest(value, names)
        for extended, text in ADVICE:
            if extended == field.partition("[")[0]:
                advice = advice or text
        raise ValueError(f"{field}={value!r} is not one of {names}.{advice}")


def expand_pattern(field: str, value: str | list[str], num_layers: int, choices: Iterable[str]) -> list[str]:
    """Expands `value` to one name per layer.

    Args:
        field: Name of the config field, for the messages.
        value: A pattern such as `"full"` or `"sliding*3, full"`, which is repeated over the layers (and cut at the
            last one), or a list with exactly one name per layer.
        num_layers: Number of layers.
        choices: The names that are allowed.

    Raises:
        ValueError: For an unknown name, a pattern that cannot be read or has a count above `MOST_LAYERS`, or a list of
            another length.
    """
    if isinstance(value, str):
        names = read_pattern(field, value, num_layers, choices)
    else:
        names = list(value)
        if len(names) != num_layers:
            raise ValueError(f"{field} has {len(names)} entries, but num_hidden_layers={num_layers}.")
        for index, name in enumerate(names):
            check_choice(f"{field}[{index}]", name, choices)
    return [names[index % len(names)] for index in range(num_layers)]


def read_pattern(field: str, value: str, num_layers: int, choices: Iterable[str]) -> list[str]:
    """The names in a pattern, each as often as its count says, but never more often than there are layers."""
    names = []
    for part in value.split(",", MOST_LAYERS):
        match = re.fullmatch(r"\s*([\w-]+)\s*(?:\*\s*([1-9]\d*)\s*)?", part)
        if match is None:
            raise ValueError(f"{field}={value[:200]!r} has the part {part[:200]!r}; write 'name' or 'name*count'.")
        count = match[2] or "1"
        if len(count) > len(str(MOST_LAYERS)) or int(count) > MOST_LAYERS:
            raise ValueError(f"{field} has the part {part[:60]!r}, but {MOST_LAYERS:,} layers are the most.")
        check_choice(f"{field}[{len(names)}]", match[1], choices)
        names += [match[1]] * min(int(count), num_layers)
    return names
