"""`trine train-dual`: pictures find their captions; new, trained and saved models; what cannot be used."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.duals import dual_encoder, processor
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel, pipeline

from trine import TrineConfig, TrineDualEncoder, TrineModel
from trine.scripts import train_dual
from trine.scripts.jobs.captions import fields_of
from trine.scripts.jobs.dual_models import side_of, split_overrides
from trine.training.data.captions import CaptionCollator
from trine.training.measures.matching import nearest_classes, ranks, recall_at


COLOURS = {"red": (220, 30, 30), "green": (20, 180, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}
PLACES = {"top": (0, 0), "bottom": (1, 0)}
QUIET = ["--disable_tqdm", "true", "--report_to", "none", "--image_size", "16", "--patch_size", "8"]
SIZES = ["--config_overrides", "text.num_hidden_layers=1", "vision.num_hidden_layers=1", "projection_dim=32"]
STEPS = ["--max_steps", "2", "--per_device_train_batch_size", "4"]


def picture(colour, place, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 30, (20, 20, 3))
    pixels[10 * place[0] : 10 * place[0] + 10] += np.array(colour) * 4 // 5
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A file of 64 pictures of eight sorts with their captions."""
    folder, lines = tmp_path_factory.mktemp("captions"), []
    for seed in range(8):
        for colour, rgb in COLOURS.items():
            for place, corner in PLACES.items():
                name = f"{colour}-{place}-{seed}.png"
                picture(rgb, corner, seed).save(folder / name)
                lines.append({"image": name, "text": f"{colour} at the {place}", "kind": colour, "number": seed})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-8]))
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[-8:]))
    return folder / "train.jsonl"


def run(tmp_path, *argv: str, output="out") -> dict:
    assert train_dual.main(["--output_dir", str(tmp_path / output), *QUIET, *argv]) == 0
    return json.loads((tmp_path / output / "metrics.json").read_text())


@pytest.fixture
def stopped(tmp_path, capsys):
    """A function that runs the command with arguments that it refuses, and returns what it says."""

    def run_and_stop(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            train_dual.main(["--output_dir", str(tmp_path / "out"), *QUIET, *argv])
        return f"{stop.value.code} {capsys.readouterr().err}"

    return run_and_stop


def test_pictures_find_their_captions_and_pipelines_use_them(records, tmp_path, capsys):
    argv = ["--files", str(records), "--validation_files", str(records.with_name("test.jsonl")), *SIZES]
    argv += [
        "--captions",
        "{text}",
        "{kind}",
        "--label_field",
        "kind",
        "--augmentation",
        "none",
        "--vocab_size",
        "120",
    ]
    metrics = run(tmp_path, *argv, "--max_steps", "60", "--per_device_train_batch_size", "16")
    found, chance = metrics["scores"]["model"], metrics["scores"]["chance"]
    assert found["R@1"] >= 0.8 and chance["R@1"] == 1 / 8 and found["class"] == 1 and chance["class"] == 0.25
    assert metrics["intervals"]["R@1"][1] == pytest.approx(1) and (tmp_path / "out/found.png").stat().st_size > 5000
    assert "56 pictures to train on, 8 to validate with" in capsys.readouterr().out
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))
    answers = classify(
        picture(COLOURS["blue"], (0, 0), 99), candidate_labels=[*COLOURS], hypothesis_template="{} at the top"
    )
    assert answers[0]["label"] == "blue"
    assert "R@10" in (tmp_path / "out/README.md").read_text()


def test_a_trained_stack_reads_the_texts_and_stays_as_it_is(records, tmp_path):
    made = processor()
    made.tokenizer.save_pretrained(tmp_path / "text")
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "is_causal": False}
    trunk = TrineModel(TrineConfig(vocab_size=len(made.tokenizer), pad_token_id=0, **fields))
    trunk.save_pretrained(tmp_path / "text")
    argv = ["--files", str(records), "--text_model", str(tmp_path / "text"), "--freeze_text", *STEPS]
    run(tmp_path, *argv, "--config_overrides", "contrastive_loss=sigmoid", "text_pooling=mean")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.contrastive_loss == "sigmoid" and type(model) is TrineDualEncoder
    for name, weight in trunk.state_dict().items():
        assert torch.equal(model.text_model.state_dict()[name], weight), name


def test_saved_models_of_both_libraries_go_on(records, tmp_path):
    made = processor()
    for size in ("ours", "theirs"):
        made.save_pretrained(tmp_path / size)
    dual_encoder({"vocab_size": len(made.tokenizer)}, dtype=torch.float32).save_pretrained(tmp_path / "ours")
    stack = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**stack, "vocab_size": len(made.tokenizer), "eos_token_id": made.tokenizer.sep_token_id}
    config = CLIPConfig(text_config=text, vision_config={**stack, "image_size": 12, "patch_size": 4}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        metrics = run(tmp_path, "--files", str(records), "--model", str(tmp_path / name), *STEPS, output=f"{name}-on")
        assert metrics["steps"] == 2 and metrics["validation_records"] == 6
        assert AutoProcessor.from_pretrained(tmp_path / f"{name}-on").image_processor.size["height"] == 12


def test_bad_input_is_named(records, tmp_path, stopped):
    (tmp_path / "cut.png").write_bytes((records.parent / "red-top-0.png").read_bytes()[:60])
    lines = ['{"image": "none.png", "text": "a"}', '{"image": "cut.png", "text": " "}', '{"image": "cut.png"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    message = stopped("--files", str(tmp_path / "bad.jsonl"))
    for part in (
        "3 records cannot be used",
        "none.png', which is no file",
        "the field 'text' is empty",
        "'text' is mi",
    ):
        assert part in message, message
    (tmp_path / "cut.jsonl").write_text('{"image": "cut.png", "text": "a"}\n{"image": "cut.png", "text": "b"}\n' * 20)
    assert "cut.png' cannot be read as a picture" in stopped("--files", str(tmp_path / "cut.jsonl"))
    files = ["--files", str(records)]
    for argv, part in {
        ("--captions", "a picture"): "captions='a picture' must name fields of the records in braces",
        ("--captions", "{text"): "captions='{text' cannot be read",
        ("--captions", "{nothing}"): "the field 'nothing' is missing",
        ("--augmentation", "wild"): "Unknown augmentation 'wild'. Choose from",
        ("--validation_fraction", "2"): "validation_fraction=2.0 must be between 0 and 1.",
        ("--max_length", "2"): "max_length=2 must be at least 4.",
        ("--model", "a", "--text_model", "b"): "text_model='b' is of a new model, but model='a'.",
        ("--model", "a", "--config_overrides", "b=1"): "config_overrides=['b=1'] is of a new model, but model='a'.",
        ("--config_overrides", "hidden.size=3"): "fields of a stack begin with 'text.' or 'vision.'",
        ("--config_overrides", "vision.hidden_sizes=3"): "vision_config: TrineConfig has no field 'hidden_sizes'",
        ("--config_overrides", "text_pooling=3"): "text_pooling",
    }.items():
        assert part in stopped(*files, *argv), argv
    TrineModel(TrineConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).save_pretrained(
        tmp_path / "plain"
    )
    assert "which is no dual encoder" in stopped(*files, "--model", str(tmp_path / "plain"))
    stack = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    CLIPModel(CLIPConfig(text_config=stack, vision_config=stack)).save_pretrained(tmp_path / "clip")
    assert "but must be a Trine encoder" in stopped(*files, "--text_model", str(tmp_path / "clip"))
    one = records.read_text().splitlines()[0]
    (records.parent / "one.jsonl").write_text(one + "\n")
    message = stopped(*files, "--validation_files", str(records.parent / "one.jsonl"))
    assert "56 pictures to train on and 1 to validate with are too few." in message


def test_captions_are_drawn_for_training_and_first_for_scores():
    tokenizer = processor().tokenizer
    examples = [{"picture": np.zeros((4, 4, 3), np.uint8), "labels": ["a", "a b", "a b c"]}] * 200
    plain = CaptionCollator(tokenizer, [0.5] * 3, [0.5] * 3)(examples)
    assert plain["input_ids"].shape == (200, 3) and plain["return_loss"] is True  # with [CLS] and [SEP]
    drawn = CaptionCollator(tokenizer, [0.5] * 3, [0.5] * 3, seed=1)(examples)["attention_mask"].sum(1).bincount()
    assert drawn[:3].tolist() == [0, 0, 0] and all(40 < count < 95 for count in drawn[3:].tolist())
    cut = CaptionCollator(tokenizer, [0.5] * 3, [0.5] * 3, max_length=4, padding="max_length", seed=1)(examples)
    assert cut["input_ids"].shape == (200, 4)


def test_ranks_and_classes_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn((7, 12), generator=generator)
    similarities[3, 5] = similarities[3, 2]
    own = [0, 4, 11, 2, 2, 7, 9]
    found = ranks(similarities, own)
    for row, place in enumerate(own):
        values = similarities[row].tolist()
        nearer = sum(value > values[place] for value in values)
        assert found[row] == nearer + (sum(value == values[place] for value in values) - 1) / 2
    assert recall_at(found, 3).tolist() == [float(rank < 3) for rank in found]
    with pytest.raises(ValueError, match="similarities hold values that are no finite numbers"):
        ranks(similarities * torch.nan, own)
    images, texts = torch.eye(3), torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    assert nearest_classes(images, texts, [0, 0, 1], 2).tolist() == [0, 0, 1]


def test_formats_and_fields():
    assert fields_of(["{a}, {b}", "{a}"]) == {"a", "b"}
    assert split_overrides({"text.a": 1, "b": 2}) == {"": {"b": 2}, "text": {"a": 1}, "vision": {}}
    made = processor()
    assert side_of(made) == 12
    made.image_processor.size = {"height": 3, "width": 4}
    with pytest.raises(ValueError, match="but must make squares"):
        side_of(made)
