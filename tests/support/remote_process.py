"""A program that loads saved models as remote code where trine cannot be imported, and writes what they compute.

    python remote_process.py JOBS

JOBS is a JSON file, a list of {"folder", "auto_class", "writes"}. Each folder holds `inputs.safetensors`; into it goes
`outputs.safetensors`, or `error.txt`.
"""

import json
import sys
import traceback
from pathlib import Path


class Blocker:
    """Finds no trine, wherever it is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trine":
            raise ImportError("trine is not installed here")


def run(folder: Path, auto_class: str, writes: bool) -> None:
    import transformers
    from safetensors.torch import load_file, save_file
    from support.random_outputs import outputs_of

    transformers.logging.disable_progress_bar()
    options = {"trust_remote_code": True, "experts_implementation": "eager"}
    model = getattr(transformers, auto_class).from_pretrained(folder, **options).eval()
    for part in (model, model.config):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    save_file(outputs_of(model, load_file(folder / "inputs.safetensors"), writes), folder / "outputs.safetensors")


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(job.pop("folder"))
        try:
            run(folder, **job)
        except Exception:
            (folder / "error.txt").write_text(traceback.format_exc())
    assert "trine" not in sys.modules


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocker())  # pyright: ignore[reportArgumentType] a finder needs no more
    main()
