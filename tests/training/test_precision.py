"""`--precision`: what is chosen by itself, what is said about it, and what contradicts it."""

import pytest
import torch

from trine.scripts import doctor
from trine.scripts.arguments.embeddings import EmbeddingTrainingArguments
from trine.scripts.arguments.finetuning import FinetuneTrainingArguments
from trine.scripts.arguments.instructions import InstructionTrainingArguments
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.pretraining import PretrainTrainingArguments
from trine.scripts.arguments.text_pairs import PairTrainingArguments
from trine.training.run import precision


KINDS = [
    EmbeddingTrainingArguments,
    FinetuneTrainingArguments,
    InstructionTrainingArguments,
    PairTrainingArguments,
    PretrainTrainingArguments,
]
SENTENCE = "Training in bf16, in which this CPU is fast; --precision fp32 trains in float32.\n"


def parse(*argv, kind=PretrainTrainingArguments):
    words = ["--use_cpu", "--output_dir", "unused", *argv]
    (training,) = parse_arguments([kind], words, command="test", description=None)
    return training


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def is_fast(request, monkeypatch):
    """A processor with instructions for bfloat16, or one without."""
    monkeypatch.setattr(precision, "bfloat16_instructions", lambda: ["avx512_bf16"] * request.param)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_trains_in_what_the_processor_is_fast_in(kind, is_fast, capsys):
    training = parse(kind=kind)
    assert (training.bf16, training.fp16) == (is_fast, False)
    assert training.mixed_precision == ("bf16" if is_fast else "no")
    assert capsys.readouterr().out == (SENTENCE if is_fast else "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--precision", "fp32"], "no"),
        (["--precision", "bf16"], "bf16"),
        (["--precision", "bf16", "--bf16"], "bf16"),
        (["--bf16"], "bf16"),
        (["--bf16", "false"], "no"),
        (["--precision", "fp32", "--bf16", "false"], "no"),
    ],
    ids=" ".join,
)
def test_what_is_asked_for_is_taken_without_a_word(words, expected, is_fast, capsys):
    training = parse(*words)
    assert training.mixed_precision == expected and training.bf16 is (expected == "bf16")
    assert capsys.readouterr().out == ""


def test_the_launcher_is_obeyed(is_fast, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    training = parse()
    assert training.mixed_precision == "bf16" and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["--precision", "half"], "no", "precision='half' is not one of ['auto', 'fp32', 'bf16', 'fp16']."),
        (["--precision", "fp32", "--bf16"], "no", "precision='fp32' and bf16=True contradict each other"),
        (["--precision", "bf16", "--fp16"], "no", "precision='bf16' and fp16=True contradict each other"),
        (["--precision", "bf16", "--bf16", "false"], "no", "precision='bf16' and bf16=False contradict each other"),
        (["--precision", "fp32"], "bf16", "precision='fp32' and ACCELERATE_MIXED_PRECISION=bf16 contradict each"),
        (["--precision", "fp16"], "no", "fp16=True trains in float16 on accelerators only"),
        (["--bf16", "--fp16"], "no", "At most one of fp16 and bf16 can be True"),
    ],
)
def test_what_contradicts_is_refused(words, environment, message, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16\n\nflags\t\t: fpu\n",
            ["avx512_bf16", "amx_bf16"],
        ),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", ["bf16"]),
        ("processor\t: 0\nflags\t\t: fpu avx2 bf16c\n", []),
        ("", []),
    ],
)
def test_instructions_are_read_where_linux_tells_them(text, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.bfloat16_instructions(tmp_path / "cpuinfo") == expected


def test_instructions_are_those_of_pytorch_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.bfloat16_instructions(tmp_path / "nowhere") == ["avx512_bf16"]


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(has_bfloat16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert precision.choose_precision("cuda") == ("bf16" if has_bfloat16 else "fp32")
    monkeypatch.setattr(precision, "is_torch_bf16_gpu_available", lambda: has_bfloat16)
    assert precision.choose_precision("xpu") == ("bf16" if has_bfloat16 else "fp32")


def test_the_doctor_tells_what_would_be_chosen(is_fast, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert doctor.find_facts()["half precision"]["--precision auto"] == f"trains in {'bf16' if is_fast else 'fp32'}"
