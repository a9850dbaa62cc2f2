"""The benchmark of drafts counts what loops over whole texts count, and refuses what it cannot compare."""

import re

import pytest
import torch
from support.tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trine import TrineConfig, TrineForCausalLM, train_byte_level_bpe
from trine.conversion import shrink
from trine.scripts import generate
from trine.scripts.benchmarks.drafts import main


TEXTS = ["the cat sat on the mat and saw what the dog saw", "what the cat saw on the mat the dog saw, too, and sat"]
SMALL = ["--prompts", "2", "--prompt_tokens", "3", "--new_tokens", "9", "--rounds", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a student of its first layer, a model of another vocabulary, an encoder, and texts."""
    folder = tmp_path_factory.mktemp("drafts")
    tokenizer = train_byte_level_bpe(TEXTS, vocab_size=280, show_progress=False)
    teacher = tiny_model(vocab_size=len(tokenizer), dtype=torch.float32)
    models = {"teacher": teacher, "student": shrink(teacher, 1, "first").model}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    other = train_byte_level_bpe(["other words"], vocab_size=262, show_progress=False)
    TrineForCausalLM(TrineConfig.from_preset("tiny", vocab_size=len(other))).save_pretrained(folder / "other")
    other.save_pretrained(folder / "other")
    (folder / "texts.txt").write_text(TEXTS[0], encoding="utf-8")
    (folder / "more.txt").write_text(TEXTS[1], encoding="utf-8")
    return folder


def run(folder, *argv, assistant="student"):
    words = ["--model", str(folder / "teacher"), "--assistants", str(folder / assistant), *SMALL]
    main([*words, "--files", str(folder / "texts.txt"), str(folder / "more.txt"), *argv])


def count_by_loops(folder, length):
    """Passes of the teacher, and tokens that the student drafted, of greedy decoding that is written out."""
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("teacher", "student"))
    tokenizer, passes, drafted = AutoTokenizer.from_pretrained(folder / "teacher"), 0, 0

    @torch.no_grad()
    def best(model, row):
        return model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax().item()

    for text in TEXTS:
        row = tokenizer(text)["input_ids"][:3]
        end = len(row) + 9
        while len(row) < end:
            draft = []
            for _ in range(min(length, end - len(row) - 1)):
                draft.append(best(student, row + draft))
            drafted, passes = drafted + len(draft), passes + 1
            for token in [*draft, None]:
                row.append(best(teacher, row))
                if row[-1] != token:
                    break
    return passes, drafted


def test_it_counts_what_loops_count_and_writes_a_table(folder, tmp_path, capsys):
    page = tmp_path / "report.md"
    run(folder, "--drafted", "1", "3", "--report", str(page))
    text = page.read_text(encoding="utf-8")
    assert "## Drafts for teacher" in text and capsys.readouterr().out.strip() in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"(?m)^\| `.*$", text)]
    assert [row[:3] for row in rows] == [["`student`", heat, length] for heat in "01" for length in "13"]
    for row in rows[:2]:
        passes, drafted = count_by_loops(folder, int(row[2]))
        assert row[3].split()[0] == f"{(18 - passes) / drafted:.3f}" and row[4] == f"{18 / passes:.2f}"
        assert row[5] == "2 of 2"
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", row[8]) for row in rows)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--drafted", "0"], r"drafted=\[0\] must be one or more, from 1"),
        (["--temperatures", "-1"], r"temperatures=\[-1.0\] must be one or more, from 0"),
        (["--temperatures", "nan"], r"temperatures=\[nan\] must be one or more, from 0"),
        (["--rounds", "0"], r"rounds=0 must be at least 1"),
    ],
)
def test_bad_options(folder, argv, message, capsys):
    with pytest.raises(SystemExit):
        run(folder, *argv)
    assert re.search(message, capsys.readouterr().err)


def test_what_cannot_be_compared(folder):
    with pytest.raises(
        SystemExit, match=r"benchmark drafts: assistant_model='.*other' has another vocabulary \(\d+ tok"
    ):
        run(folder, assistant="other")
    with pytest.raises(SystemExit, match=r"benchmark drafts: assistant_model='.*nowhere' cannot be read"):
        run(folder, assistant="nowhere")
    with pytest.raises(SystemExit, match=r"hold no text of more than prompt_tokens=500"):
        run(folder, "--prompt_tokens", "500")


def test_trine_generate_writes_the_same_with_an_assistant(folder, capsys):
    words = ["--model", str(folder / "teacher"), "--text", "the cat", "--temperature", "0", "--max_new_tokens", "8"]
    generate.main(words)
    expected = capsys.readouterr().out
    generate.main([*words, "--assistant_model", str(folder / "student"), "--num_assistant_tokens", "2"])
    assert capsys.readouterr().out == expected
    with pytest.raises(SystemExit, match=r"trine generate: assistant_model='.*other' has another vocabulary"):
        generate.main([*words, "--assistant_model", str(folder / "other")])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--num_beams", "2"],
            r"assistant_model='a' drafts for one text and one beam at a time, not num_beams=2 and 1",
        ),
        (
            ["--text", "a", "b"],
            r"assistant_model='a' drafts for one text and one beam at a time, not num_beams=1 and 2",
        ),
        (["--num_assistant_tokens", "0"], r"num_assistant_tokens=0 must be at least 1\."),
    ],
)
def test_what_trine_generate_refuses(argv, message, capsys):
    with pytest.raises(SystemExit):
        generate.main(["--model", "m", "--text", "a", "--assistant_model", "a", *argv])
    assert re.search(message, capsys.readouterr().err)
