"""`--plugin`, which every command has: mechanisms of somebody's own, in every place where kinds are named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import forks
from support.plugins import tables_restored, write_sigmoid
from transformers.utils import logging

from trine import load_plugin
from trine.scripts import cli
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks.attention_layers import training_memory
from trine.scripts.list import ListArguments
from trine.scripts.reports.markdown import in_fresh_process


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RECALL = ["study", "recall", "--experiments", "needle", "--scale", "0.005", "--seeds", "1", "--report", "report.md"]
ATTENTION = ["benchmark", "attention", "--lengths", "16", "32", "--fit_from", "16", "--rounds", "1"]
ATTENTION += ["--longest_eager", "16", "--peer_length", "0", "--report", "report.md", "--output_dir", "out"]


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        yield


def test_a_command_knows_what_its_plugin_registers(tmp_path, capsys):
    file = write_sigmoid(tmp_path, "command_sigmoid", "ours")
    assert cli.main(["list", "kinds", "--plugin", str(file)]) in (None, 0)
    assert "  ours " in capsys.readouterr().out


def test_a_recipe_names_plugins(tmp_path):
    file = write_sigmoid(tmp_path, "recipe_sigmoid", "ours")
    (tmp_path / "recipe.yaml").write_text(f"plugin: [{file}]\nwhat: kinds\n")
    (arguments,) = parse_arguments(
        [ListArguments], ["--recipe", str(tmp_path / "recipe.yaml")], command="list", description=None
    )
    assert arguments.what == "kinds"
    from trine.configuration.kinds import ATTENTION_KINDS

    assert "ours" in ATTENTION_KINDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a file."),
        ("import a_module_that_is_not_there\n", "No module named 'a_module_that_is_not_there'"),
        ("from trine import register_attention\nregister_attention('full', int)\n", "name='full' is taken"),
        ("x = 1\nx = = 2\n", "broken_plugin.py:2: invalid syntax"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_told_in_one_line(text, message, tmp_path, capsys):
    file = tmp_path / "broken_plugin.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as error:
        cli.main(["list", "kinds", "--plugin", str(file)])
    assert error.value.code == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_a_file_with_another_name_is_told_to_be_renamed(tmp_path, capsys):
    file = write_sigmoid(tmp_path, "my", "ours").rename(tmp_path / "my-mech.py")
    with pytest.raises(SystemExit):
        cli.main(["list", "kinds", "--plugin", str(file)])
    assert f"{file} has a name that no code can import" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"my-mech.py has a name .* call it my_mech.py"):
        cli.main(["check", str(file)])
    (tmp_path / "torn.py").write_text("x = 1\nx = = 2\n")
    with pytest.raises(SystemExit, match=r"^trine check: .*torn.py:2: invalid syntax$"):
        cli.main(["check", str(tmp_path / "torn.py")])


def test_a_plugin_that_registers_nothing_is_told(tmp_path, caplog):
    logging.enable_propagation()
    file = write_sigmoid(tmp_path, "full_sigmoid", "ours")
    load_plugin(file)
    load_plugin(file)
    assert not caplog.text
    (tmp_path / "idle_plugin.py").write_text("class Forgotten:\n    pass\n")
    load_plugin(tmp_path / "idle_plugin.py")
    assert f"{tmp_path / 'idle_plugin.py'} registers nothing" in caplog.text


def test_a_folder_behind_the_plugin_is_told_where_to_stand(tmp_path, capsys):
    """`--plugin` takes all words that follow."""
    file = write_sigmoid(tmp_path, "greedy_sigmoid", "ours")
    with pytest.raises(SystemExit):
        cli.main(["export", "--plugin", str(file), "my-model", "my-onnx"])
    told = capsys.readouterr().err
    assert "plugin='my-model' is neither a file (.py) nor a module" in told and "stands before --plugin" in told


def test_a_training_writes_its_plugin_beside_the_model(tmp_path):
    """And so a process that knows neither can generate; see tests/modeling/test_registration.py."""
    file = write_sigmoid(tmp_path, "trained_sigmoid", "ours")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    small = ("attention_types=ours, full", "num_hidden_layers=2", "hidden_size=32", "ours_bias=-0.25")
    status = cli.main(
        [
            *("pretrain", "--plugin", str(file), "--files", str(tmp_path / "text.txt"), "--preset", "tiny"),
            *("--config_overrides", *small, "--max_steps", "2", "--output_dir", str(tmp_path / "model")),
            *("--block_length", "32", "--use_cpu", "--report_to", "none"),
        ]
    )
    assert status in (None, 0)
    assert (tmp_path / "model" / "trained_sigmoid.py").is_file()
    from trine import TrineConfig

    config = TrineConfig.from_pretrained(tmp_path / "model")
    assert config.attention_types == ["ours", "full"] and config.ours_bias == -0.25


def test_a_training_does_not_begin_in_the_folder_of_its_plugin(tmp_path):
    file = write_sigmoid(tmp_path, "placed_sigmoid", "ours")
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    words = ("pretrain", "--plugin", str(file), "--files", str(tmp_path / "text.txt"), "--preset", "tiny")
    with pytest.raises(SystemExit, match=r"^trine: .*placed_sigmoid.py would be overwritten"):
        cli.main([*words, "--max_steps", "1", "--use_cpu", "--report_to", "none", "--output_dir", str(tmp_path)])


def test_a_benchmark_measures_it_in_a_process_of_its_own(tmp_path):
    load_plugin(write_sigmoid(tmp_path, "measured_sigmoid", "ours"))
    assert in_fresh_process(training_memory, "ours", True, 16, 8, is_forked=True) >= 0


def run(folder, *words):
    """A command in a process of its own, which begins without plugins."""
    done = forks.run(["-m", "trine.scripts.cli", *words], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["option", "recipe"])
def test_a_study_trains_it(way, tmp_path):
    """Beside Trine's own kinds; gated_delta has fields of its own, and a state."""
    files = [shutil.copy(EXAMPLES / f"{name}.py", tmp_path) for name in ("sigmoid_attention", "gated_delta")]
    words = ["--plugin", *files]
    if way == "recipe":
        (tmp_path / "study.yaml").write_text(json.dumps({"plugin": files}))
        words = ["--recipe", "study.yaml"]
    run(tmp_path, *RECALL, "--models", "full", "sigmoid", "gated_delta", "--output_dir", "out", *words)
    runs = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [run["model"] for run in runs] == ["full", "sigmoid", "gated_delta"]
    assert runs[0]["parameters"] + 2 * 2 * 2 == runs[1]["parameters"]
    assert "| gated_delta | " in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_a_benchmark_measures_it(tmp_path):
    """One that writes all pairs out, up to the length for such; and one with a state."""
    files = [shutil.copy(EXAMPLES / f"{name}.py", tmp_path) for name in ("sigmoid_attention", "gated_delta")]
    run(tmp_path, *ATTENTION, "--kinds", "full", "sigmoid", "gated_delta", "--plugin", *files)
    results = json.loads((tmp_path / "out" / "decoder.json").read_text())
    assert list(results["forward"]["sigmoid"]) == ["16"] and list(results["forward"]["gated_delta"]) == ["16", "32"]
    assert results["memory"]["gated_delta"]["32"] and results["decoding"]["gated_delta"]["32"]
    done = forks.run(
        ["-m", "trine.scripts.cli", *ATTENTION, "--shape", "encoder", "--plugin", files[1], "--kinds", "gated_delta"],
        tmp_path,
    )
    assert done.returncode and "kinds has 'gated_delta', which encoders cannot have: name the others." in done.stderr


PRESETS = """
import sys
sys.path.insert(0, "site")
from trine.configuration.presets import PRESETS, SEQ2SEQ_PRESETS
from trine import TrineConfig, TrineForCausalLM, TrineSeq2SeqConfig
from trine.scripts import cli
cli.main(["list", "kinds"])
fields = {"attention_types": "sigmoid, full", "sigmoid_bias": -5.0}
types = {"full_attention": {"rope_type": "default", "rope_theta": 9.0}}
for name in PRESETS:
    waves = {"rope_parameters": {**types, "pairwise_attention": types["full_attention"]}} if "modern" in name else {}
    config = TrineConfig.from_preset(name, **fields, **waves)
    assert config.attention_types[:2] == ["sigmoid", "full"] and config.sigmoid_bias == -5.0
for name in SEQ2SEQ_PRESETS:
    both, one = (TrineSeq2SeqConfig.from_preset(name, **given) for given in (fields, {"encoder": fields}))
    assert both.decoder.sigmoid_bias == both.encoder.sigmoid_bias == one.encoder.sigmoid_bias == -5.0
    assert one.decoder.attention_types[0] == "full" and not hasattr(one.decoder, "sigmoid_bias")
TrineForCausalLM(TrineConfig.from_preset("tiny", **fields)).save_pretrained("model")
"""


def test_a_package_brings_kinds_for_presets_and_commands(tmp_path):
    """By its entry point, and without an option; a checkpoint takes its module along."""
    package, facts = tmp_path / "site" / "some_package", tmp_path / "site" / "some_package-1.0.dist-info"
    for folder in (package, facts):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(EXAMPLES / "sigmoid_attention.py", package / "attention.py")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[trine.plugins]\nmine = some_package.attention\n")
    # No fork: the process that is forked may have imported trine, which looks for entry points then.
    done = subprocess.run([sys.executable, "-c", PRESETS], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  sigmoid " in done.stdout and (tmp_path / "model" / "attention.py").is_file()


def test_a_preset_of_an_encoder_decoder_trains_with_it(tmp_path):
    file = shutil.copy(EXAMPLES / "sigmoid_attention.py", tmp_path)
    pairs = [{"source": f"the number {n}", "target": f"number {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = ("train-translation", "--files", "pairs.jsonl", "--preset", "tiny", "--validation_pairs", "4")
    overrides = ("--config_overrides", "attention_types=sigmoid, full", "sigmoid_bias=-2.0")
    options = ("--max_steps", "2", "--use_cpu", "--report_to", "none", "--output_dir", "model")
    run(tmp_path, *words, *overrides, *options, "--plugin", file)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["encoder"]["attention_types"] == config["decoder"]["attention_types"] == ["sigmoid", "full"]
    assert config["encoder"]["sigmoid_bias"] == -2.0 and (tmp_path / "model" / "sigmoid_attention.py").is_file()
