"""`trine distill`: students of encoders, decoders and encoder-decoders, what runs leave, and what is refused."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from support import forks
from support.tiny import SIZES, tiny_config
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineModel,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.generation.translation.translator import Translation, Translator
from trine.scripts import distill
from trine.scripts.jobs import written_targets


COLOURS = ["red", "green", "blue", "white", "black", "brown"]
THINGS = ["house", "horse", "river", "stone", "bird", "lamp"]
EMBEDDINGS = ("--objective", "embeddings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts, and teachers of all shapes with their tokenizers."""
    folder = tmp_path_factory.mktemp("distil")
    rows = [
        {"text": f"a {b} that is {a}", "more": f"{a} {b} here", "out": f"{b} {a}"} for a in COLOURS for b in THINGS
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = [text for row in rows for text in row.values()]
    (folder / "plain.txt").write_text("\n".join(texts * 2), encoding="utf-8")
    sizes = {**SIZES, "num_hidden_layers": 4, "initializer_range": 0.3}
    torch.manual_seed(0)
    for name, known in (("encoder", texts), ("other", [*texts[:54], " ".join(COLOURS).replace("", " ")])):
        tokenizer = train_wordpiece(known, 200, show_progress=False)
        both = {**sizes, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "is_causal": False}
        TrineModel(TrineConfig(**both)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        if name == "encoder":
            TrineForMaskedLM(TrineConfig(**both)).save_pretrained(folder / "masked")
            tokenizer.save_pretrained(folder / "masked")
            special = {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": tokenizer.cls_token_id}
            stacks = [tiny_config(**{**both, "is_causal": causal}) for causal in (False, True)]
            config = TrineSeq2SeqConfig(
                encoder=stacks[0], decoder=stacks[1], eos_token_id=tokenizer.sep_token_id, **special
            )
            TrineForConditionalGeneration(config).save_pretrained(folder / "translator")
            tokenizer.save_pretrained(folder / "translator")
    tokenizer = train_byte_level_bpe(texts, 300, show_progress=False)
    TrineForCausalLM(TrineConfig(**{**sizes, "vocab_size": len(tokenizer)})).save_pretrained(folder / "decoder")
    tokenizer.save_pretrained(folder / "decoder")
    return folder


def run(folder, output, teacher, *argv, files="texts.jsonl"):
    words = ["--teacher", str(folder / teacher), "--files", str(folder / files), "--max_length", "24"]
    words += ["--max_steps", "4", "--save_steps", "2", "--eval_strategy", "no", "--per_device_train_batch_size", "8"]
    words += ["--learning_rate", "3e-3", "--use_cpu", "--disable_tqdm", "true", "--cache_dir", str(folder / "cache")]
    if not {"--student_layers", "--student"} & {*argv}:
        words += ["--student_layers", "2"]
    return distill.main([*words, "--output_dir", str(output), *argv])


def metrics_of(output):
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_a_sentence_encoder(folder, tmp_path, capsys):
    argv = (*EMBEDDINGS, "--text_field", "text", "more")
    assert run(folder, tmp_path / "a", "encoder", *argv, "--energy_country", "DEU") == 0
    told = capsys.readouterr().out
    assert "Layers taken from the teacher: 0, 3." in told and "Batches without padding." in told
    metrics = metrics_of(tmp_path / "a")
    assert metrics["training_texts"] + metrics["validation_texts"] == 72 and metrics["steps"] == 4
    assert metrics["used_texts"] == 32 and "32 of 68 texts, drawn at random" in told
    assert metrics["scores"]["after"]["loss_embeddings"] < metrics["scores"]["before"]["loss_embeddings"]
    assert metrics["energy_kwh"] > 0 and metrics["joules_per_1000_tokens"] > 0
    assert metrics["taken_layers"] == {"": [0, 3]} and metrics["random_parameters"] == []
    assert "Distilled from `encoder` by its embeddings." in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    student, teacher = SentenceTransformer(str(tmp_path / "a")), SentenceTransformer(str(folder / "encoder"))
    assert student[1].pooling_mode == "mean" and student.max_seq_length == 24
    assert student.encode(["red house"]).shape == teacher.encode(["red house"]).shape
    assert (
        run(folder, tmp_path / "c", "encoder", *argv, "--resume_from_checkpoint", str(tmp_path / "a/checkpoint-2"))
        == 0
    )
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_narrow_sentence_encoder_with_another_vocabulary(folder, tmp_path):
    """Its vectors are led to the teacher's size by a module that is saved with it."""
    TrineConfig(**{**SIZES, "hidden_size": 16, "vocab_size": 200, "is_causal": False}).save_pretrained(tmp_path / "s")
    for file in (folder / "other").glob("tokenizer*"):
        (tmp_path / "s" / file.name).write_bytes(file.read_bytes())
    assert (
        run(folder, tmp_path / "a", "encoder", *EMBEDDINGS, "--student", str(tmp_path / "s"), "--pooling", "cls") == 0
    )
    student = SentenceTransformer(str(tmp_path / "a"))
    assert [type(module).__name__ for module in student] == ["Transformer", "Pooling", "Dense"]
    assert student[0].get_embedding_dimension() == 16 and student.encode(["red house"]).shape == (1, 32)
    assert "distillation.embeddings_map.weight" not in load_file(tmp_path / "a" / "model.safetensors")


@pytest.mark.parametrize(
    ("teacher", "argv", "model_class"),
    [
        ("decoder", ("--alpha_labels", "0.5"), TrineForCausalLM),
        (
            "decoder",
            ("--student_config_overrides", "attention_types=linear", "mlp_layer_types=sparse"),
            TrineForCausalLM,
        ),
        ("masked", ("--objective", "logits", "hidden", "--take_layers", "last"), TrineForMaskedLM),
        ("encoder", ("--objective", "relations,hidden"), TrineModel),
        ("translator", ("--source_field", "text", "--target_field", "out"), TrineForConditionalGeneration),
        (
            "translator",
            ("--objective", "sequences", "logits", "--source_field", "text", "--num_beams", "2"),
            TrineForConditionalGeneration,
        ),
    ],
)
def test_other_teachers(folder, tmp_path, teacher, argv, model_class):
    is_plain = teacher == "decoder"
    files, more = "plain.txt" if is_plain else "texts.jsonl", ["--validation_files", str(folder / "texts.jsonl")]
    more = more if is_plain else []
    assert run(folder, tmp_path / "a", teacher, *argv, *more, files=files) == 0
    scores = metrics_of(tmp_path / "a")["scores"]
    assert scores["after"]["loss"] < scores["before"]["loss"]
    loaded, info = model_class.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(info.values())
    stack = loaded if model_class is TrineModel else loaded.model
    assert len(getattr(stack, "decoder", stack).layers) == 2


SEQUENCES = ("--objective", "sequences", "--source_field", "text", "--num_beams", "2")


def test_a_student_of_what_its_teacher_writes(folder, tmp_path, capsys, monkeypatch):
    """It learns the teacher's own best texts; pieces that were written before a run stopped are found again."""
    monkeypatch.setattr(written_targets, "PIECE", 16)
    asked, whole = [], Translator.translate

    def translate(self, texts, **options):
        if len(asked) == 1:  # the second piece
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(texts))
        return whole(self, texts, **options)

    monkeypatch.setattr(Translator, "translate", translate)
    argv = (*SEQUENCES, "--cache_dir", str(tmp_path / "cache"), "--max_steps", "12", "--teacher_dtype", "float32")
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "a", "translator", *argv)
    assert run(folder, tmp_path / "a", "translator", *argv) == 0
    assert "The teacher wrote 36 texts" in capsys.readouterr().out
    assert asked == [16, 0, 16, 2, 2]  # the first piece once, those after it, and the texts that are held out
    metrics = metrics_of(tmp_path / "a")
    assert metrics["scores"]["after"]["loss_sequences"] < metrics["scores"]["before"]["loss_sequences"]
    assert run(folder, tmp_path / "b", "translator", *argv) == 0 and len(asked) == 5
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/targets.json")]
    teacher = Translator.from_pretrained(folder / "translator", max_length=24)
    texts = [f"a {b} that is {a}" for a in COLOURS for b in THINGS]
    expected = teacher(texts, num_beams=2, do_sample=False)
    assert {text for piece in kept for text in piece} <= {*expected}


def test_a_teacher_of_transformers_writes_for_a_new_student(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder / "translator")
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id}
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, init_std=0.5,
        bos_token_id=tokenizer.cls_token_id, decoder_start_token_id=tokenizer.cls_token_id, forced_eos_token_id=None,
        **special,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    TrineSeq2SeqConfig.from_pretrained(folder / "translator").save_pretrained(tmp_path / "student")
    argv = (*SEQUENCES, "--student", str(tmp_path / "student"))
    assert run(folder, tmp_path / "a", str(tmp_path / "bart"), *argv) == 0
    assert isinstance(TrineForConditionalGeneration.from_pretrained(tmp_path / "a"), TrineForConditionalGeneration)
    with pytest.raises(SystemExit, match="takes layers of a Trine checkpoint, and .* is a BartForConditionalGen"):
        run(folder, tmp_path / "b", str(tmp_path / "bart"), *SEQUENCES)


def test_a_teacher_that_writes_nothing_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Translator, "translate", lambda self, texts, **options: [Translation("", [], [])] * len(texts))
    with pytest.raises(SystemExit, match="translator' writes nothing for any of the 32 texts"):
        run(folder, tmp_path / "a", "translator", *SEQUENCES, "--cache_dir", str(tmp_path / "cache"))


STRANGER = """
import sys, torch
sys.modules["trine"] = None
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("a", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
torch.save(model(torch.arange(9)[None]).logits.detach(), "logits.pt")
"""


def test_a_process_without_the_package_computes_the_same(folder, tmp_path):
    argv = ("--student_config_overrides", "attention_types=sliding,linear", "mlp_layer_types=dense,sparse")
    held_out = ("--validation_files", str(folder / "texts.jsonl"))
    assert run(folder, tmp_path / "a", "decoder", *argv, *held_out, files="plain.txt") == 0
    result = forks.run(["-c", STRANGER], tmp_path, os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")})
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = TrineForCausalLM.from_pretrained(tmp_path / "a").eval()(torch.arange(9)[None]).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_relations_across_vocabularies_leave_texts_out_that_are_cut_otherwise(folder, tmp_path, capsys):
    argv = ("--student", str(folder / "other"), "--objective", "relations")
    assert run(folder, tmp_path / "a", "encoder", *argv) == 0
    assert "texts are left out: the tokenizers of teacher and student cut them into other" in capsys.readouterr().out


ERRORS = {
    "nothing of a student": (("encoder", "--student_layers", "2", "--student", "x"), "give one of them"),
    "no teacher": (("nowhere",), "teacher='.*nowhere'"),
    "no sentence encoder": (("nowhere", *EMBEDDINGS), "teacher='.*nowhere': there is no such folder"),
    "no head": (("encoder",), "objective='logits' needs a teacher with a head that predicts tokens"),
    "more layers": (("decoder", "--student_layers", "5"), "student_layers=5 must be from 1 to 4"),
    "wider": (
        ("decoder", "--student_config_overrides", "hidden_size=64"),
        "hidden_size=64 of the student differs from",
    ),
    "bad override": (("decoder", "--student_config_overrides", "hidden_size"), "config_overrides has 'hidden_size'"),
    "no field": (("encoder", *EMBEDDINGS, "--text_field", "txt"), "the field 'txt' is missing from"),
    "no pairs": (("translator",), "give source_field and target_field"),
    "pairs": (
        ("decoder", "--source_field", "text", "--target_field", "out"),
        "source_field='text' is for an encoder-dec",
    ),
    "half a pair": (("translator", "--source_field", "text"), "give both, or none"),
    "writes no texts": (("decoder", *SEQUENCES), "teacher='.*decoder': "),
    "a target": (("translator", *SEQUENCES, "--target_field", "out"), "as the teacher writes the targets"),
    "beams": (("translator", *SEQUENCES, "--num_beams", "0"), "num_beams=0 must be at least 1"),
    "an encoder as student": (
        ("translator", *SEQUENCES, "--student", "ENCODER"),
        "objective='sequences' needs a student that reads a text and writes another",
    ),
    "student folder": (("decoder", "--student", "CACHE"), "has neither weights nor a config.json"),
    "its own weights": (
        ("encoder", *EMBEDDINGS, "--student", "other", "--take_layers", "first"),
        "has its own weights",
    ),
    "stack": (("decoder", "--student", "decoder", "--stack", "encoder"), "stack='encoder' goes with student_layers"),
    "vocabulary": (
        ("encoder", "--student", "other", "--objective", "hidden"),
        "has another vocabulary than teacher=.*Choose 'embeddings' or 'sequences', or 'relations'",
    ),
    "long": (("encoder", *EMBEDDINGS, "--max_length", "200"), "max_length=200 is above max_position_embeddings=96"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_refused(case, folder, tmp_path, capsys):
    (teacher, *words), message = ERRORS[case]
    (folder / "cache").mkdir(exist_ok=True)
    places = {
        "other": folder / "other",
        "decoder": folder / "decoder",
        "CACHE": folder / "cache",
        "ENCODER": folder / "encoder",
    }
    words = [str(places.get(word, word)) for word in words]
    with pytest.raises(SystemExit) as stop:
        run(folder, tmp_path / "a", teacher, *words)
    error = f"{stop.value.code} {capsys.readouterr().err}"
    assert re.search(message, error), error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", "0"), "temperature=0.0 must be above 0"),
        (("--objective", "embeddings", "hidden"), "'embeddings' stands alone"),
        (("--teacher_dtype", "float16"), "teacher_dtype='float16' is not one of"),
        (("--validation_fraction", "1"), "validation_fraction=1.0 must be between 0 and 1"),
        (("--max_length", "3"), "max_length=3 must be at least 4"),
        (("--pooling", "max"), "pooling='max' is not one of"),
        (("--text_field", ","), "text_field=[] names no field"),
    ],
)
def test_arguments_are_refused(words, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(folder, tmp_path / "a", "encoder", *words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_no_text(folder, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(SystemExit, match=r"files=\[.*leave too little: {'training_texts': 0"):
        run(folder, tmp_path / "a", "decoder", files=str(tmp_path / "empty.txt"))
