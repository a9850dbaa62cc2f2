"""`trine train-images`: folders, records and data sets; new and pretrained models; what cannot be used."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, pipeline

from trine.scripts import train_images


COLOURS = {"blue": (0, 0, 255), "green": (0, 200, 0), "red": (255, 0, 0)}
SMALL = ["--image_size", "8", "--patch_size", "4", "--config_overrides", "hidden_size=16", "num_hidden_layers=1"]
SMALL += ["num_attention_heads=2", "--disable_tqdm", "true", "--report_to", "none"]


def picture(colour, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-40, 41, (10, 12, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def classes(tmp_path):
    """A folder with a folder of eight pictures for each of three colours."""
    folder = tmp_path / "classes"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(8):
            picture(colour, number).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def records(classes):
    lines = [
        {"image": f"{name}/{number}.png", "label": name, "note": number} for name in COLOURS for number in range(8)
    ]
    (classes / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return classes / "train.jsonl"


def run(tmp_path, *argv: str, output="out") -> dict:
    assert train_images.main(["--output_dir", str(tmp_path / output), *argv]) == 0
    return json.loads((tmp_path / output / "metrics.json").read_text())


@pytest.fixture
def stopped(tmp_path, capsys):
    """A function that runs the command with arguments that it refuses, and returns what it says."""

    def run_and_stop(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            train_images.main(["--output_dir", str(tmp_path / "out"), *argv])
        return f"{stop.value.code} {capsys.readouterr().err}"

    return run_and_stop


def test_a_folder_of_classes_is_learned_and_used(classes, tmp_path, capsys):
    argv = ["--files", str(classes), *SMALL, "--num_train_epochs", "30", "--learning_rate", "3e-3"]
    metrics = run(tmp_path, *argv, "--per_device_train_batch_size", "8", "--early_stopping_patience", "0")
    assert metrics["labels"] == ["blue", "green", "red"] and metrics["training_records"] == 22
    assert metrics["scores"]["model"]["accuracy"] == 1.0 and metrics["scores"]["most frequent"]["accuracy"] < 0.5
    assert "22 pictures to train on, 2 to validate with, 3 classes." in capsys.readouterr().out
    classify = pipeline("image-classification", model=str(tmp_path / "out"))
    assert classify(str(classes / "red" / "0.png"))[0]["label"] == "red"
    assert (tmp_path / "out/confusion.png").exists() and (tmp_path / "out/preprocessor_config.json").exists()


def test_records_and_data_sets_are_the_same_pictures(records, classes, tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    rows = [json.loads(line) for line in records.read_text().splitlines()]
    features = Features({"image": ImageFeature(), "label": Value("string"), "note": Value("int64")})
    columns = {"image": [str(classes / row["image"]) for row in rows], "label": [row["label"] for row in rows]}
    Dataset.from_dict({**columns, "note": [0] * len(rows)}, features=features).save_to_disk(str(tmp_path / "saved"))
    steps = ["--max_steps", "3", "--augmentation", "erase", "--eval_strategy", "no", "--save_strategy", "no"]
    steps += ["--load_best_model_at_end", "false", "--validation_files", str(records)]
    found = [
        run(tmp_path, "--files", str(files), *SMALL, *steps, output=name)["scores"]["model"]["loss"]
        for name, files in (("a", records), ("b", tmp_path / "saved"))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_pretrained_model_goes_on_and_a_run_is_resumed(records, tmp_path):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    argv = ["--files", str(records), "--model", str(tmp_path / "vit"), "--disable_tqdm", "true", "--report_to", "none"]
    argv += [
        "--per_device_train_batch_size",
        "7",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--eval_strategy",
        "steps",
    ]
    argv += ["--eval_steps", "2"]
    whole = run(tmp_path, *argv, "--max_steps", "4", "--augmentation", "none")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"} and whole["steps"] == 4
    resumed = run(tmp_path, *argv, "--max_steps", "6", "--resume_from_checkpoint", "last")
    assert resumed["steps"] == 6


def test_bad_records_are_named_or_left_out(records, tmp_path, stopped):
    with records.open("a") as file:
        file.write(
            '{"image": "none.png", "label": "red"}\n{"image": "red/0.png", "label": 1.5}\n{"image": "red/1.png"}\n'
        )
    message = stopped("--files", str(records), *SMALL)
    for part in (
        "3 records cannot be used",
        "none.png', which is no file",
        "'label' holds a float",
        "'label' is missing",
    ):
        assert part in message
    argv = ["--skip_bad_records", "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
    with pytest.warns(UserWarning, match="They are left out"):
        metrics = run(tmp_path, "--files", str(records), *SMALL, *argv, "--load_best_model_at_end", "false")
    assert metrics["bad_records"] == 3


def test_what_cannot_be_used_ends_with_one_line(classes, records, tmp_path, stopped):
    (classes / "red" / "cut.png").write_bytes((classes / "red" / "0.png").read_bytes()[:90])
    records.unlink()
    assert "cut.png' cannot be read as a picture" in stopped("--files", str(classes), *SMALL)
    (classes / "red" / "cut.png").unlink()
    for argv, message in (
        (["--augmentation", "lite"], "Unknown augmentation 'lite'. Did you mean 'light'?"),
        (["--image_size", "9"], "image_size=9 is not a multiple of patch_size=4"),
        (["--config_overrides", "hidden=3"], "TrineConfig has no field 'hidden'"),
        (["--model", "x"], "are of a new model, but model='x'"),
        (["--files", str(tmp_path / "nowhere")], "nowhere"),
        (["--validation_files", str(classes / "red")], "red"),
        (["--metric_for_best_model", "acuracy"], "acuracy"),
    ):
        assert message in stopped("--files", str(classes), *SMALL, *argv)
    (classes.parent / "other" / "pink").mkdir(parents=True)
    picture((255, 0, 255), 0).save(classes.parent / "other" / "pink" / "0.png")
    message = stopped("--files", str(classes), "--validation_files", str(classes.parent / "other"), *SMALL)
    assert "validation_files have the classes ['pink'], which the training files lack" in message
    only = stopped("--files", str(classes.parent / "other"), *SMALL)
    assert "has the labels ['pink']; two at least are needed" in only
