"""Export a checkpoint as an ONNX graph, a program of torch.export or a GGUF file for llama.cpp, and check it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trine.conversion.gguf.tensors import DTYPES
from trine.conversion.programs.export import FORMATS, export
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.convert import places_first


@dataclass
class ExportArguments:
    """Options of `trine export`."""

    source: str = field(metadata={"help": "Folder with a checkpoint of Trine, or a name on the Hugging Face Hub."})
    target: str = field(metadata={"help": "Folder to write; it must not be there yet."})
    format: str = field(default="onnx", metadata={"aliases": ["--to"], "help": f"One of {', '.join(FORMATS)}."})
    cache: bool = field(
        default=False, metadata={"help": "Export a decoder as two graphs, prefill and decode, which pass a cache on."}
    )
    dtype: str | None = field(
        default=None, metadata={"help": f"Of a GGUF file: {', '.join(DTYPES)}. By default that of the weights."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine export` with these arguments, by default the process's."""
    argv = places_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([ExportArguments], argv, command="export", description=__doc__)
    try:
        difference = export(**vars(arguments), show_progress=True)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    print(f"{arguments.source} -> {arguments.target}")
    print(f"{FORMATS[arguments.format].checked}: {difference:.3g}")


if __name__ == "__main__":
    main()
