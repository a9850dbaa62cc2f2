"""Train a small model on Python's own documentation, sample from it, and load it without this package."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from trine.inspection.attention import attention_maps, read
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.pretraining import PretrainArguments, PretrainTrainingArguments
from trine.scripts.datasets.python_corpus import collect_python_documents
from trine.scripts.generate import continue_prompts
from trine.scripts.jobs.job import bad_input_ends, begin
from trine.scripts.pretrain import pretrain
from trine.scripts.reports.plots import draw_overview
from trine.training.run.resuming import check_writable


TEMPERATURES = (0.3, 0.7, 1.0)
SENTENCE = "If the argument is None, the value of the argument is returned."  # whose attention is drawn

# What a fresh interpreter runs, in which `trine` cannot be imported: the code in the folder has to do.
LOAD_WITHOUT_PACKAGE = """
import sys
sys.modules["trine"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text, file = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    torch.save(model(**tokenizer(text, return_tensors="pt")).logits, file)
"""


@dataclass
class DemoArguments(PretrainArguments):
    """Options of `trine demo`: those of pretraining, with a text of its own and the recipe `demo` as defaults."""

    files: list[str] = field(
        default_factory=list, metadata={"help": "Text in place of Python's documentation, as for trine pretrain."}
    )
    text: str = field(
        default="If the argument is", metadata={"help": "What the samples continue.", "aliases": ["--prompt"]}
    )
    sample_length: int = field(default=100, metadata={"help": "Tokens that a sample adds to the prompt."})


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine demo` with these arguments, by default the process's."""
    start = time.perf_counter()
    types = [DemoArguments, PretrainTrainingArguments]
    arguments, training = parse_arguments(types, argv, command="demo", description=__doc__, default_recipe="demo")
    folder = Path(training.output_dir)
    if not training.resume_from_checkpoint:
        with bad_input_ends():
            begin(training)  # which tells of an earlier run before the text is collected, as that takes a while
    if not arguments.files:
        arguments.files = [str(write_corpus(folder))]
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("MPLCONFIGDIR", cache)  # plots, tokens and remote code leave nothing in the home folder
        arguments.cache_dir = arguments.cache_dir or cache
        metrics = pretrain(arguments, training)
        if metrics is None:
            return 130
        print_samples(folder, arguments.text, arguments.sample_length)
        draw_run(folder)
        check_without_package(folder, arguments.text, Path(cache))
    print(describe_results(folder, metrics["training_seconds"], time.perf_counter() - start))
    return 0


def write_corpus(folder: Path) -> Path:
    """Write Python's documentation as JSON lines into the folder; return the file."""
    print("Collecting the documentation and the docstrings of this Python ...", flush=True)
    try:
        check_writable(folder)
        documents = collect_python_documents()
    except OSError as error:
        sys.exit(f"trine demo: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    print(f"{len(documents):,} documents of {sum(map(len, documents)):,} characters.", flush=True)
    return file


def print_samples(folder: Path, prompt: str, length: int) -> None:
    """Print one continuation of the prompt for each of three temperatures."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for temperature in TEMPERATURES:
        set_seed(0)
        (text,) = continue_prompts(
            model, tokenizer, [prompt], do_sample=True, temperature=temperature, top_k=0, max_new_tokens=length
        )
        print(f"\n--- sample at temperature {temperature} ---\n{text}", flush=True)


def draw_run(folder: Path) -> None:
    """Draws the run in one picture, `overview.png`, of what the folder holds.

    Its heads are those two of the last layer of pairwise attention that look least at the first token.
    """
    config = AutoConfig.from_pretrained(folder)
    options = {"attn_implementation": "eager", "dtype": "float32"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    reading = read(model, AutoTokenizer.from_pretrained(folder), SENTENCE)
    last = max(layer for layer, kind in enumerate(config.attention_types) if kind in ("full", "sliding"))
    (item,) = attention_maps(model, reading, [last])
    heads = item.weights[:, 1:, 0].mean(1).argsort()[:2].tolist()
    losses = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["loss"]
    draw_overview(
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"],
        {name: loss for name, loss in losses.items() if name != "model"},
        {f"layer {last}, head {head}": item.weights[head].numpy() for head in heads},
        item.columns,
        folder / "overview.png",
    )


def check_without_package(folder: Path, text: str, cache: Path) -> None:
    """Load the folder in a fresh process that cannot import this package; its logits must equal those computed here.

    Raises:
        RuntimeError: the process failed, or its logits differ.
    """
    print("\nLoading the folder in a fresh process without the package ...", flush=True)
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(**inputs).logits
    command = [sys.executable, "-c", LOAD_WITHOUT_PACKAGE, str(folder.resolve()), text, str(cache / "logits.pt")]
    environment = os.environ | {"HF_MODULES_CACHE": str(cache / "modules"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"'{folder}' could not be loaded without the package:\n{process.stderr}")
    if not torch.equal(torch.load(cache / "logits.pt"), expected):
        raise RuntimeError(f"'{folder}' gives other logits when it is loaded without the package.")
    print(
        f"AutoModelForCausalLM.from_pretrained('{folder}', trust_remote_code=True) gives the same logits, bit by bit."
    )


def describe_results(folder: Path, training_seconds: float, seconds: float) -> str:
    """The message at the end: the files that were made, and commands to try next."""
    trine = "trine" if shutil.which("trine") else os.path.relpath(Path(sys.executable).with_name("trine"))
    return f"""
Done in {seconds:.0f} seconds, {training_seconds:.0f} of them training. In '{folder}':
  model.safetensors, config.json, *.py   the model, with the code that loads it anywhere
  tokenizer.json                         the tokenizer, which needs no code
  overview.png                           training, experts and attention in one picture
  loss.png, expert-load.png              how training went
  metrics.json, trainer_state.json       its figures
  corpus.jsonl                           the text it was trained on

Try next:
  {trine} generate --model {folder} --text "Raise a ValueError if" --temperatures 0.3,0.8
  {trine} pretrain --recipe demo --files YOUR_FOLDER_OF_TEXT --output_dir outputs/mine
  {trine} --help"""


if __name__ == "__main__":
    sys.exit(main())
