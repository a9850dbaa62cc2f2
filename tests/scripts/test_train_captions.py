"""`trine train-captions`: pictures get their captions; new, trained and saved models; what cannot be used."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from trine import TrineConfig, TrineForCausalLM, TrineForImageTextToText, TrineModel, train_byte_level_bpe
from trine.scripts import train_captions
from trine.scripts.jobs.caption_models import IMAGE_TOKEN, make_captioner
from trine.scripts.train_captions import captions_by_pixels
from trine.training.data.captions import WrittenCaptionCollator
from trine.training.data.pictures import Pictures
from trine.training.measures.matching import nearest_rows
from trine.training.measures.overlap import word_f1


COLOURS = {"red": (220, 30, 30), "green": (20, 180, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}
QUIET = ["--disable_tqdm", "true", "--image_size", "16", "--patch_size", "8", "--vocab_size", "300"]
SIZES = ["--config_overrides", "text.num_hidden_layers=1", "vision.num_hidden_layers=1"]
STEPS = ["--max_steps", "2", "--per_device_train_batch_size", "4"]


def picture(colour, place: str, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 30, (20, 20, 3))
    start = 10 * (place == "bottom")
    pixels[start : start + 10] += np.array(colour) * 4 // 5
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A file of 56 pictures of eight sorts with their captions, and one of eight others."""
    folder, lines = tmp_path_factory.mktemp("pictures"), []
    for seed in range(8):
        for colour, rgb in COLOURS.items():
            for place in ("top", "bottom"):
                name = f"{colour}-{place}-{seed}.png"
                picture(rgb, place, seed).save(folder / name)
                lines.append({"image": name, "text": f"{colour} at the {place}", "kind": colour})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-8]))
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[-8:]))
    return folder / "train.jsonl"


def run(tmp_path, *argv: str, output="out") -> dict:
    assert train_captions.main(["--output_dir", str(tmp_path / output), *QUIET, *argv]) == 0
    return json.loads((tmp_path / output / "metrics.json").read_text())


@pytest.fixture
def stopped(tmp_path, capsys):
    """A function that runs the command with arguments that it refuses, and returns what it says."""

    def run_and_stop(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            train_captions.main(["--output_dir", str(tmp_path / "out"), *QUIET, *argv])
        return f"{stop.value.code} {capsys.readouterr().err}"

    return run_and_stop


def test_pictures_get_their_captions_and_the_pipeline_writes_them(records, tmp_path, capsys):
    argv = ["--files", str(records), "--validation_files", str(records.with_name("test.jsonl")), *SIZES]
    steps = ["--max_steps", "100", "--per_device_train_batch_size", "16", "--learning_rate", "3e-3"]
    metrics = run(tmp_path, *argv, "--augmentation", "none", *steps)
    scores = metrics["scores"]["model"]
    assert scores["exact"] >= 0.8 and scores["word F1"] >= scores["exact"]
    assert "56 pictures to train on, 8 to score with" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out/captions.jsonl").read_text().splitlines()]
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1"])
    for name, key in (("model", "written"), ("caption of the nearest picture by pixels", "nearest")):
        found = np.mean([scorer.score(row["caption"], row[key])["rouge1"].fmeasure for row in rows])
        assert metrics["scores"][name]["word F1"] == pytest.approx(found)
    write = pipeline("image-text-to-text", model=str(tmp_path / "out"))
    for row, colour, place in ((0, "red", "top"), (5, "blue", "bottom")):
        found = write(images=picture(COLOURS[colour], place, 7), text=IMAGE_TOKEN, return_full_text=False)
        assert found[0]["generated_text"].strip() == rows[row]["written"]
    assert "word F1" in (tmp_path / "out/README.md").read_text()


def test_a_trained_decoder_gets_a_token_for_pictures_and_a_saved_captioner_goes_on(records, tmp_path):
    tokenizer = train_byte_level_bpe(["red at the top", "blue at the bottom"] * 4, 280, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "decoder")
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    trunk = TrineForCausalLM(TrineConfig(**fields, eos_token_id=tokenizer.eos_token_id))
    trunk.save_pretrained(tmp_path / "decoder")
    argv = ["--files", str(records), "--text_model", str(tmp_path / "decoder"), *STEPS, "--learning_rate", "1e-9"]
    metrics = run(tmp_path, *argv, "--config_overrides", "vision.num_hidden_layers=1")
    assert metrics["steps"] == 2 and metrics["validation_records"] == 6
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(model) is TrineForImageTextToText
    assert model.config.text_config.vocab_size == len(tokenizer) + 1
    for name, weight in trunk.state_dict().items():
        found = model.language_model.state_dict()[name][: len(weight)]
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-6, msg=name)
    argv = ["--files", str(records), "--model", str(tmp_path / "out"), *STEPS]
    assert run(tmp_path, *argv, output="on")["parameters"] == metrics["parameters"]
    assert AutoProcessor.from_pretrained(tmp_path / "on").image_processor.size["height"] == 16


def test_bad_input_is_named(records, tmp_path, stopped):
    files = ["--files", str(records)]
    for argv, part in {
        ("--captions", "a picture"): "captions='a picture' must name fields of the records in braces",
        ("--captions", "{nothing}"): "the field 'nothing' is missing",
        ("--augmentation", "wild"): "Unknown augmentation 'wild'. Choose from",
        ("--validation_fraction", "2"): "validation_fraction=2.0 must be between 0 and 1.",
        ("--max_length", "1"): "max_length=1 must be at least 2",
        ("--model", "a", "--text_model", "b"): "text_model='b' is of a new model, but model='a'.",
        ("--model", "a", "--config_overrides", "b=1"): "config_overrides=['b=1'] is of a new model, but model='a'.",
        ("--config_overrides", "hidden.size=3"): "fields of a stack begin with 'text.' or 'vision.'",
        (
            "--config_overrides",
            "text.is_causal=false",
        ): "text_config.is_causal=False, but a TrineImageTextConfig needs",
    }.items():
        assert part in stopped(*files, *argv), argv
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 400}
    TrineModel(TrineConfig(**fields, is_causal=False)).save_pretrained(tmp_path / "encoder")
    assert "which" not in (message := stopped(*files, "--model", str(tmp_path / "encoder")))
    assert "must be a captioner of Trine: model_type='trine_image_text'" in message
    message = stopped(*files, "--text_model", str(tmp_path / "encoder"))
    assert "with is_causal=False, but must be a Trine decoder" in message
    TrineForCausalLM(TrineConfig(**fields)).save_pretrained(tmp_path / "endless")
    tokenizer = train_byte_level_bpe(["red"] * 4, 280, show_progress=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    message = stopped(*files, "--text_model", str(tmp_path / "endless"))
    assert "eos_token=None, but a caption needs a token that ends it." in message
    (records.parent / "one.jsonl").write_text(records.read_text().splitlines()[0] + "\n")
    message = stopped(*files, "--validation_files", str(records.parent / "one.jsonl"))
    assert "56 pictures to train on and 1 to score with are too few." in message


def test_a_tokenizer_that_ends_pictures_is_refused(records, monkeypatch, stopped):
    from tokenizers.processors import TemplateProcessing

    def ending(*args):
        model, processor = make_captioner(*args)
        end = processor.tokenizer.eos_token, processor.tokenizer.eos_token_id
        template = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
        processor.tokenizer.backend_tokenizer.post_processor = template
        return model, processor

    monkeypatch.setattr(train_captions, "make_captioner", ending)
    assert "puts '<|endoftext|>' after a picture, where the caption should begin" in stopped("--files", str(records))


def test_labels_are_those_of_captions_and_their_ends():
    tokenizer = train_byte_level_bpe(["a"] * 4, 280, show_progress=False, extra_special_tokens=[IMAGE_TOKEN])
    image, end, pad = (tokenizer.convert_tokens_to_ids(each) for each in (IMAGE_TOKEN, "<|endoftext|>", "<|pad|>"))
    collate = WrittenCaptionCollator(tokenizer, [0.5] * 3, [0.5] * 3, max_length=3, prompt=[image, image])
    a, b = tokenizer("a").input_ids[0], tokenizer("b").input_ids[0]
    black = np.zeros((4, 4, 3), np.uint8)
    batch = collate([{"picture": black, "labels": [text, "never"]} for text in ("a", "abbbb")])
    assert batch["input_ids"].tolist() == [[image, image, a, end, pad], [image, image, a, b, end]]
    assert batch["labels"].tolist() == [[-100, -100, a, end, -100], [-100, -100, a, b, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)


def test_nearest_pictures_and_words_in_common_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    rows, others = torch.randn((5, 7), generator=generator), torch.randn((20, 7), generator=generator)
    expected = [min(range(20), key=lambda j: float((row - others[j]).square().sum())) for row in rows]
    assert nearest_rows(rows, [others[:9], others[9:10], others[10:]]).tolist() == expected
    known = [picture(rgb, "top", 1) for rgb in COLOURS.values()]
    data = [Pictures(known, [[name] for name in COLOURS], 20), Pictures([known[2], known[0]], [["a"], ["b"]], 20)]
    assert captions_by_pixels(*data) == ["blue", "red"]
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1"])
    for one, other in (("a red, red Hat", "the red hat"), ("red red", "red red red"), ("no", "yes"), ("", "a")):
        assert word_f1(one, other) == pytest.approx(scorer.score(other, one)["rouge1"].fmeasure)
