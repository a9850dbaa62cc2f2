"""Write a mechanism that runs, as a start for one of your own: attention, state, position, feed-forward or router."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from trine.configuration.kinds import KIND_TABLES
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments, unknown_name


STARTS = Path(__file__).parent / "starts"
FIELDS = {
    "attention": "attention_types",
    "state": "attention_types",
    "position": "position_type",
    "feed-forward": "mlp_layer_types",
    "router": "router_type",
}


@dataclass
class NewArguments:
    """Options of `trine new`."""

    kind: str = field(
        metadata={
            "help": "attention (to pairs of tokens), state (attention through a state of constant size), position, "
            "feed-forward or router. It may stand first, without its name, and FILE after it."
        }
    )
    file: str = field(metadata={"help": "The Python file to write; its name is that of the mechanism."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine new` with these arguments, by default the process's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for option in ("--file", "--kind"):
        place = 1 if option == "--file" else 0
        if len(argv) > place and not any(word.startswith("-") for word in argv[: place + 1]):
            argv.insert(place, option)
    (arguments,) = parse_arguments([NewArguments], argv, command="new", description=__doc__)
    try:
        name = write_start(arguments.kind, Path(arguments.file))
    except INPUT_ERRORS as error:
        sys.exit(f"trine new: {error}")
    registered = f"{arguments.file} registers {name!r} for {FIELDS[arguments.kind]}"
    print(f"{registered}. Check it with: trine check {arguments.file}")


def write_start(kind: str, file: Path) -> str:
    """Writes a start of that kind into a file that is not there yet; returns the name that it registers.

    Raises:
        ValueError: The kind is unknown, or the file's name is taken or not the name of a module.
        FileExistsError: The file is there.
    """
    if kind not in FIELDS:
        raise ValueError(unknown_name("kind", kind, FIELDS))
    if file.exists():
        raise FileExistsError(f"{file} is there already: remove it, or choose another name.")
    name = file.stem
    if file.suffix != ".py" or not name.isidentifier() or name != name.lower():
        raise ValueError(
            f"file={str(file)!r} must be the name of a Python file: lower-case letters, digits, `_`, .py."
        )
    if name in KIND_TABLES[FIELDS[kind]] or find_spec(name) is not None:
        raise ValueError(f"file={str(file)!r} cannot be called so: {name!r} is the name of something else already.")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    text = (STARTS / f"{kind.replace('-', '_')}.py").read_text(encoding="utf-8")
    text = re.sub(r'"start"', f'"{name}"', text).replace("start_", f"{name}_").replace("Start", class_name)
    file.write_text(text, encoding="utf-8")
    return name


if __name__ == "__main__":
    main()
