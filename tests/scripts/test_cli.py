"""The `trine` command, its arguments and its recipes."""

import math
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import trine
from trine.scripts import cli
from trine.scripts.arguments import parsing as arguments
from trine.scripts.arguments.captions import CaptionArguments, CaptionTrainingArguments
from trine.scripts.arguments.distillation import DistillArguments, DistillTrainingArguments
from trine.scripts.arguments.dual import DualArguments, DualTrainingArguments
from trine.scripts.arguments.embeddings import EmbeddingArguments, EmbeddingTrainingArguments
from trine.scripts.arguments.instructions import InstructionArguments, InstructionTrainingArguments
from trine.scripts.arguments.lora import LoraArguments, OptionalLoraArguments
from trine.scripts.arguments.partial_training import PartialTrainingArguments
from trine.scripts.arguments.pretraining import PretrainArguments, PretrainTrainingArguments, parse_overrides
from trine.scripts.arguments.rerankers import RerankerArguments, RerankerNegativeArguments, RerankerTrainingArguments
from trine.scripts.arguments.text_pairs import PairArguments
from trine.scripts.demo import DemoArguments
from trine.scripts.finetune_classifier import ClassifierArguments, ClassifierTrainingArguments
from trine.scripts.finetune_tagger import TaggerArguments, TaggerTrainingArguments
from trine.scripts.push_to_hub import PushArguments
from trine.scripts.train_images import ImageArguments, ImageTrainingArguments
from trine.scripts.train_series import SeriesArguments, SeriesTrainingArguments
from trine.scripts.train_sounds import SoundArguments, SoundTrainingArguments
from trine.scripts.train_summarizer import SummarizerArguments, SummarizerTrainingArguments
from trine.scripts.train_translation import TranslationTrainingArguments


SCRIPTS = Path(cli.__file__).parent


@dataclass
class Options:
    name: str = "none"
    rate: float = 0.5
    numbers: list[int] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list, metadata={"action": "extend"})
    flag: bool = True


def parse(*argv, types=(Options,), **keywords):
    return arguments.parse_arguments(types, argv, command="test", description=None, **keywords)[0]


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        (tmp_path / "recipe.yaml").write_text(text)
        return str(tmp_path / "recipe.yaml")

    return write


def test_every_script_is_a_sub_command_with_help(capsys):
    scripts = cli.find_scripts()
    assert {"pretrain", "train-tokenizer", "generate", "demo"} <= set(scripts)
    assert not {"arguments", "plots", "cli", "python-corpus"} & set(scripts)
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, module in scripts.items():
        summary = cli.summary_of(module)
        assert summary and f"  {name} " in overview and f"{summary}\n" in overview
        with pytest.raises(SystemExit) as stop:
            cli.main([*name.split(), "--help"])
        assert stop.value.code == 0
        assert "--recipe" in capsys.readouterr().out, name


def test_three_ways_to_start(capsys, monkeypatch):
    starts = [
        (lambda: runpy.run_path(str(SCRIPTS / "train_tokenizer.py"), run_name="__main__"), ["x.py", "--help"]),
        (lambda: runpy.run_module("trine.scripts.train_tokenizer", run_name="__main__"), ["x.py", "--help"]),
        (cli.main, ["trine", "train-tokenizer", "--help"]),
    ]
    helps = set()
    for start, argv in starts:
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            start()
        assert stop.value.code == 0
        helps.add(capsys.readouterr().out)
    (text,) = helps
    assert text.startswith("usage: trine train-tokenizer")


def test_a_sub_command_may_have_another_name_than_its_script(capsys):
    assert "inspect" in cli.find_scripts() and "inspect-model" not in cli.find_scripts()
    shadows = {path.stem for path in SCRIPTS.glob("*.py")} & (sys.stdlib_module_names - {"__init__"})
    assert not shadows, "beside a script that is run by its path, these would hide the standard library's"
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--help"])
    assert capsys.readouterr().out.startswith("usage: trine inspect ")


@pytest.mark.parametrize("words", [["benchmark"], ["benchmark", "--help"]])
def test_a_group_tells_its_own_commands(words, capsys):
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "  benchmark models " in told and "pretrain" not in told and "study" not in told


def test_a_misspelt_command_of_a_group(capsys):
    assert cli.main(["study", "recal"]) == 2
    assert "Unknown sub-command 'study recal'. Did you mean 'study recall'?" in capsys.readouterr().err


def test_misspelt_sub_command(capsys):
    assert cli.main(["train-tokeniser"]) == 2
    assert "Unknown sub-command 'train-tokeniser'. Did you mean 'train-tokenizer'?" in capsys.readouterr().err


def test_an_interrupted_command_ends_without_a_traceback(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("trine.scripts.train_tokenizer.main", interrupted)
    assert cli.main(["train-tokenizer"]) == 130


def test_output_that_nobody_reads_ends_quietly():
    """As in `trine --help | head -1`."""
    command = [
        sys.executable,
        "-c",
        "import sys, trine_command; sys.argv[1:] = ['--help']; sys.exit(trine_command.main())",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == cli.UNREAD


def test_without_arguments_it_says_what_to_do_first(capsys):
    assert cli.main([]) == 0
    greeting = capsys.readouterr().out
    assert greeting.startswith(f"Trine {trine.__version__}: ") and f"All {len(cli.find_scripts())} sub-" in greeting
    named = re.findall(r"^  trine ([a-z-]+) ", greeting, flags=re.MULTILINE)
    assert named == ["demo", "convert", "new"] and {*named} < {*cli.find_scripts()}


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{trine.__version__}\n"


def test_recipe_under_command_line_over_defaults(recipe):
    path = recipe("name: recipe\nrate: 1e-3\nnumbers: [1, -2]\nflag: no\npairs: {a: 1, b: [x, null]}\n")
    parsed = parse("--recipe", path, "--name", "line", "--pairs", "b=2")
    assert parsed == Options("line", 0.001, [1, -2], ["a=1", 'b=["x", null]', "b=2"], False)
    assert parse("--recipe", path, "--numbers", "7", "--flag").numbers == [7]
    assert parse() == Options()


def test_words_of_a_recipe_stay_words(recipe):
    """Those that YAML 1.1 takes for booleans, octal numbers, times of day and dates; quotes change nothing."""
    for word in ("no", "off", "y", "017", "12:30", "1_000", "2026-01-02", '"null"', '"true"'):
        assert parse("--recipe", recipe(f"name: {word}\n")).name == word.strip('"')
    assert parse("--recipe", recipe("pairs: [en, no, off]\n")).pairs == ["en", "no", "off"]
    for text, expected in {"no": False, "off": False, "yes": True, "on": True, "true": True, "False": False}.items():
        assert parse("--recipe", recipe(f"flag: {text}\n")).flag is expected


def test_yaml_of_overrides():
    texts = ["a=1e-3", "b=no", "c=true", "d=[1, .5, x]", "e={f: ~, g: 017}", "h=", "i=-.inf"]
    assert parse_overrides(texts) == {
        "a": 0.001,
        "b": "no",
        "c": True,
        "d": [1, 0.5, "x"],
        "e": {"f": None, "g": "017"},
        "h": None,
        "i": -math.inf,
    }


def test_a_recipe_in_another_encoding(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_bytes("name: ä".encode("latin-1"))
    with pytest.raises(SystemExit):
        parse("--recipe", str(tmp_path / "recipe.yaml"))
    assert "recipe.yaml' is not UTF-8 text" in capsys.readouterr().err


def test_a_null_in_a_recipe_is_the_default(recipe):
    assert parse("--recipe", recipe("name:\nrate: 2\n")) == Options(rate=2.0)


def test_packaged_recipe_by_name(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text("name: small")
    monkeypatch.setattr(arguments, "RECIPES", tmp_path)
    assert parse("--recipe", "small").name == "small"
    assert parse(default_recipe="small").name == "small"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: x", "Unknown recipe key 'nmae'. Did you mean 'name'?"),
        ("rate: fast", "argument --rate: invalid float value: 'fast'"),
        ("rate: [1, 2]", "recipe key 'rate' takes one value, not the list [1, 2]."),
        ("name: {a: 1}", "recipe key 'name' takes one value, not the mapping {'a': 1}."),
        ("numbers: [1, [2]]", "recipe key 'numbers' is a list of texts or numbers, and holds [2]."),
        ("numbers: [1, null]", "recipe key 'numbers' is a list of texts or numbers, and holds None."),
        ("- name", "holds a list, not a mapping"),
        ("name: [", "is not YAML"),
    ],
)
def test_recipe_errors(recipe, capsys, text, message):
    with pytest.raises(SystemExit) as stop:
        parse("--recipe", recipe(text))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "dmeo"], "Unknown recipe 'dmeo'. Did you mean 'demo'? There is no such file either."),
        (["--nmae", "x"], "Unknown argument '--nmae'. Did you mean '--name'?"),
        (["--nam", "x"], "Unknown argument '--nam'. Did you mean '--name'?"),
    ],
)
def test_argument_errors(capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 2


PRETRAIN = DemoArguments, PretrainTrainingArguments, trine.TrineConfig
TRANSLATE = PairArguments, PartialTrainingArguments, TranslationTrainingArguments, trine.TrineSeq2SeqConfig
SUMMARIZE = SummarizerArguments, SummarizerTrainingArguments, trine.TrineSeq2SeqConfig
RECIPES = {
    "demo": PRETRAIN,
    "pretrain-english": PRETRAIN,
    "pretrain-small": PRETRAIN,
    "train-summarizer": SUMMARIZE,
    "transformer-base": TRANSLATE,
    "translate-both": TRANSLATE,
    "translate-zh-en": TRANSLATE,
}
MORE_WORDS = dict.fromkeys(("translate-both", "translate-zh-en"), ["--encoder", "e"])  # which recipes cannot name
# Those of commands that begin with a trained model.
CLASSIFY = ClassifierArguments, PartialTrainingArguments, ClassifierTrainingArguments
TAG = TaggerArguments, PartialTrainingArguments, TaggerTrainingArguments
EMBED = EmbeddingArguments, OptionalLoraArguments, EmbeddingTrainingArguments
RERANK = RerankerArguments, RerankerNegativeArguments, RerankerTrainingArguments
TUNE = InstructionArguments, LoraArguments, InstructionTrainingArguments
DISTILL = DistillArguments, PartialTrainingArguments, DistillTrainingArguments
TUNING = {
    "chat-assistant": TUNE,
    "classify-clothes": (ImageArguments, PartialTrainingArguments, ImageTrainingArguments),
    "caption-emoji": (CaptionArguments, CaptionTrainingArguments),
    "forecast-demand": (SeriesArguments, PartialTrainingArguments, SeriesTrainingArguments),
    "spoken-words": (SoundArguments, PartialTrainingArguments, SoundTrainingArguments),
    "classify-sections": CLASSIFY,
    "distill-decoder": DISTILL,
    "distill-descriptions": DISTILL,
    "distill-zh-en": DISTILL,
    "embed-descriptions": EMBED,
    "embed-three-vectors": EMBED,
    "embed-zh-en": EMBED,
    "finetune-classifier": CLASSIFY,
    "finetune-lora": TUNE,
    "finetune-tagger": TAG,
    "name-emoji": (DualArguments, DualTrainingArguments),
    "summarize-descriptions": (SummarizerArguments, PartialTrainingArguments, SummarizerTrainingArguments),
    "rerank-descriptions": RERANK,
    "tag-entities": TAG,
    "train-embeddings": EMBED,
}
NEW = ("caption-emoji", "classify-clothes", "forecast-demand", "name-emoji", "spoken-words")  # which make a model


def test_every_packaged_recipe_is_checked():
    assert {*RECIPES, *TUNING, "push-to-hub"} == {path.stem for path in arguments.RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("name", RECIPES)
def test_packaged_recipes_are_valid(name, tmp_path):
    *types, config_class = RECIPES[name]
    words = ["--recipe", name, "--output_dir", str(tmp_path), "--files", "a", *MORE_WORDS.get(name, [])]
    options, *_ = arguments.parse_arguments(types, words, command="test", description=None)
    overrides = parse_overrides(options.config_overrides)
    assert overrides == yaml.safe_load((arguments.RECIPES / f"{name}.yaml").read_text()).get("config_overrides", {})
    config_class.from_preset(options.preset, **overrides)


@pytest.mark.parametrize("name", TUNING)
def test_packaged_recipes_of_tuning_are_valid(name, tmp_path):
    taught = [known for known, types in TUNING.items() if types is DISTILL]
    model = {**dict.fromkeys(taught, ["--teacher", "m"]), **dict.fromkeys(NEW, [])}.get(name, ["--model", "m"])
    words = ["--recipe", name, "--output_dir", str(tmp_path), *model, "--files", "a"]
    filled = arguments.parse_arguments(TUNING[name], words, command="test", description=None)
    for key, value in yaml.safe_load((arguments.RECIPES / f"{name}.yaml").read_text()).items():
        (parsed,) = [getattr(part, key) for part in filled if hasattr(part, key)]
        parsed = parse_overrides(parsed) if key == "config_overrides" else parsed
        assert parsed == (float(value) if isinstance(parsed, float) else value), key


def test_the_recipe_of_pushing_is_valid():
    words = ["--recipe", "push-to-hub", "--folder", "f", "--repository", "me/model"]
    (filled,) = arguments.parse_arguments([PushArguments], words, command="test", description=None)
    recipe = yaml.safe_load((arguments.RECIPES / "push-to-hub.yaml").read_text())
    assert not filled.yes and all(getattr(filled, key) == value for key, value in recipe.items())


def test_pretraining_defaults(tmp_path):
    pretrain, training = arguments.parse_arguments(
        [PretrainArguments, PretrainTrainingArguments],
        ["--files", "a", "b", "--output_dir", str(tmp_path), "--config_overrides", "hidden_size=8", "qk_norm=true"],
        command="pretrain",
        description=None,
    )
    assert pretrain.files == ["a", "b"] and pretrain.config_overrides == ["hidden_size=8", "qk_norm=true"]
    assert (training.learning_rate, training.weight_decay, training.adam_beta2) == (1e-3, 0.1, 0.95)
    assert (training.max_grad_norm, training.logging_steps, training.report_to) == (1.0, 10, [])
    assert training.lr_scheduler_type == "cosine" and training.warmup_steps > 0


def test_overrides_are_yaml():
    texts = ["hidden_size=64", "attention_types=sliding*3, full", "qk_norm=true", "norm_eps=1e-5", "hidden_size=96"]
    texts += ["rope_parameters={rope_type: default, rope_theta: 1e6}", 'mlp_layer_types=["dense", "sparse"]']
    assert parse_overrides([*texts, "pad_token_id=null", "position_type=none"]) == {
        "hidden_size": 96,
        "attention_types": "sliding*3, full",
        "qk_norm": True,
        "norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "mlp_layer_types": ["dense", "sparse"],
        "pad_token_id": None,
        "position_type": "none",
    }


@pytest.mark.parametrize("text", ["hidden_size", "=3", "a=[1"])
def test_bad_overrides(text):
    with pytest.raises(ValueError, match="config_overrides has "):
        parse_overrides([text])
