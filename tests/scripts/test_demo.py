"""The demo's text, and the whole demo on a text of a few lines."""

import json
import re
import shlex

import pytest

from trine.scripts import demo
from trine.scripts.datasets import python_corpus
from trine.training.run import callbacks


ARGUMENTS = shlex.split(
    "--max_steps 4 --logging_steps 1 --eval_strategy no --block_length 32 --vocab_size 280 --validation_fraction 0.2 "
    "--disable_tqdm true --use_cpu --text Line --sample_length 4"
)


@pytest.fixture(scope="module")
def documents():
    return python_corpus.collect_python_documents()


def test_corpus_is_large_and_has_no_duplicates(documents):
    assert sum(map(len, documents)) > 500_000
    assert len(set(documents)) == len(documents)
    assert not any(document.isspace() or not document for document in documents)


def test_corpus_holds_reference_and_docstrings(documents):
    import json.decoder
    import textwrap

    text = "\n\n".join(documents)
    assert 'The "assert" statement' in text or '"assert"' in text
    docstring = textwrap.dedent("    " + json.decoder.JSONDecodeError.__doc__).strip()
    (document,) = [document for document in documents if document.startswith("json.decoder.JSONDecodeError\n")]
    assert " ".join(document.split()) == " ".join(f"json.decoder.JSONDecodeError {docstring}".split())
    assert not any(document.startswith(("test.", "idlelib.")) for document in documents)


def test_sections_of_longer_documents_are_left_out():
    whole = "The first paragraph, of some length.\n\nThe second one.\n\nThe third."
    documents = ["The second one.\n\nThe  third.\n\nNew.", whole, whole, "Quite another text.\n\nThe third."]
    assert python_corpus._without_repetition(documents) == [whole, "Quite another text.\n\nThe third."]


def test_missing_documentation_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(python_corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no sources of its standard library"):
        python_corpus.collect_python_documents()
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match=r"has no pydoc_data\.topics"):
        python_corpus.collect_python_documents()
    with pytest.raises(SystemExit, match=r"trine demo: This Python has no pydoc_data\.topics"):
        demo.main(["--output_dir", str(tmp_path)])


def test_what_an_interrupted_demo_advises_works(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "collect_python_documents", lambda: [f"Line {n} of the text.\n" * 9 for n in range(40)])
    monkeypatch.setattr(demo, "print_samples", lambda *_: None)
    monkeypatch.setattr(demo, "draw_run", lambda *_: None)
    monkeypatch.setattr(demo, "check_without_package", lambda *_: None)
    interrupt = callbacks.InterruptCallback.on_step_end

    def interrupt_after_two(callback, args, state, control, **kwargs):
        callback.interrupted = state.global_step == 2
        interrupt(callback, args, state, control, **kwargs)

    monkeypatch.setattr(callbacks.InterruptCallback, "on_step_end", interrupt_after_two)
    argv = [*ARGUMENTS, "--output_dir", str(tmp_path / "output")]
    assert demo.main(argv) == 130
    (advice,) = re.findall(r"Interrupted at step 2. Go on with (--.*)\.", capsys.readouterr().out)
    monkeypatch.setattr(callbacks.InterruptCallback, "on_step_end", interrupt)
    with monkeypatch.context() as patch:  # the same command again, before it collects anything
        patch.setattr(demo, "collect_python_documents", lambda: pytest.fail("the text is collected"))
        patch.setattr("sys.argv", ["bin/trine", "demo", *argv])
        patch.setattr("shutil.which", lambda _: None)
        with pytest.raises(SystemExit, match="holds checkpoints of an earlier run") as ended:
            demo.main(argv)
    command = shlex.split(str(ended.value).partition(" To go on: ")[2])
    assert command == ["bin/trine", "demo", *argv, *shlex.split(advice)]
    assert demo.main([*argv, *shlex.split(advice)]) == 0
    assert json.loads((tmp_path / "output" / "metrics.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_the_whole_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        demo, "collect_python_documents", lambda: [f"Line {n} of the text is here.\n" * 9 for n in range(40)]
    )
    output = tmp_path / "output"
    assert demo.main([*ARGUMENTS, "--output_dir", str(output)]) == 0
    text = capsys.readouterr().out
    for temperature in demo.TEMPERATURES:
        assert f"--- sample at temperature {temperature} ---\nLine" in text
    for line in ("   unigram  ", "    bigram  ", "     model  ", "gives the same logits, bit by bit", "Try next:"):
        assert line in text
    names = {path.name for path in output.iterdir()}
    assert {"corpus.jsonl", "loss.png", "expert-load.png", "metrics.json", "model.safetensors"} <= names
    picture = (output / "overview.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 200_000
    assert len((output / "corpus.jsonl").read_text().splitlines()) == 40
    config = json.loads((output / "config.json").read_text())
    assert config["attention_types"] == ["sliding", "sliding", "simplicial", "full"]
    assert "sparse" in config["mlp_layer_types"]

    (output / "modeling_trine.py").write_text("raise OSError('broken')")
    with pytest.raises(RuntimeError, match="could not be loaded without the package:(.|\n)*broken"):
        demo.check_without_package(output, "Line", tmp_path)
    monkeypatch.setattr(demo, "LOAD_WITHOUT_PACKAGE", "import sys, torch; torch.save(torch.ones(1), sys.argv[3])")
    with pytest.raises(RuntimeError, match="gives other logits"):
        demo.check_without_package(output, "Line", tmp_path)
