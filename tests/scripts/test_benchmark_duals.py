"""`trine benchmark duals`: both sides begin with equal weights, and are scored alike."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from trine import train_wordpiece
from trine.scripts.benchmarks import duals
from trine.training.data.pictures import Pictures


SHAPES = ("house", "tree", "car", "hat", "boat", "cup")
NAMES = [f"{colour} {shape}" for colour in ("red", "green", "blue", "white") for shape in SHAPES]


@pytest.fixture
def records(tmp_path):
    """A file of 24 pictures with their captions."""
    lines = []
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(tmp_path / f"{seed}.png")
        lines.append(json.dumps({"image": f"{seed}.png", "text": name}))
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "pictures.jsonl"


SMALL = ["--image_size", "16", "--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]


def command(records, *argv: str) -> list[str]:
    output = str(records.with_name("found.json"))
    return ["--files", str(records), "--test_files", str(records), "--output", output, *SMALL, *argv]


def test_both_sides_learn_the_same_pairs(records, capsys):
    duals.main(command(records, "--steps", "100", "--batch_size", "24", "--seeds", "1", "2"))
    runs = json.loads(records.with_name("found.json").read_text())["runs"]
    assert [(row["model"], row["seed"]) for row in runs] == [
        (name, s) for s in (1, 2) for name in (duals.PEER, duals.OWN)
    ]
    assert all(row["recall_at_10"] >= 0.8 and row["cpu_seconds"] > 0 for row in runs)  # by chance 10 of 24
    assert f"| {duals.OWN} | " in capsys.readouterr().out


@torch.no_grad()
def test_they_begin_with_equal_weights_and_equal_scores(records):
    arguments = duals.DualBenchmarkArguments(
        [], [], "", image_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    tokenizer = train_wordpiece(NAMES, 200, show_progress=False)
    models = duals.make_models(arguments, tokenizer, 3)
    read = tokenizer(NAMES, padding=True, return_tensors="pt", return_token_type_ids=False)
    inputs = {**read, "pixel_values": torch.randn(len(NAMES), 3, 16, 16)}
    peer, own = (models[name].eval()(**inputs).logits_per_image for name in (duals.PEER, duals.OWN))
    torch.testing.assert_close(own, peer, rtol=1e-4, atol=1e-4)
    data = Pictures([records.with_name(f"{seed}.png") for seed in range(24)], [[name] for name in NAMES], 16)
    found = [duals.found_among_ten(model, data, tokenizer, 32) for model in models.values()]
    ranks = [
        int((row > row[place]).sum()) for place, row in enumerate(pixel_scores(models[duals.PEER], data, tokenizer))
    ]
    assert found == [pytest.approx(np.mean([rank < 10 for rank in ranks]))] * 2


def pixel_scores(model, data, tokenizer):
    """Similarities of pictures and captions (24, 24) of the peer by itself, pair by pair of its own call."""
    pictures = torch.stack([torch.tensor(data[index]["picture"] / 127.5 - 1).permute(2, 0, 1) for index in range(24)])
    read = tokenizer(NAMES, padding=True, return_tensors="pt", return_token_type_ids=False)
    return model(**read, pixel_values=pictures.float()).logits_per_image


def test_too_few_pictures_and_formats_without_fields_are_named(records):
    with pytest.raises(SystemExit, match="batch_size=128 must be at most 24, the pictures of files"):
        duals.main(command(records))
    with pytest.raises(SystemExit, match="captions='a picture' must name fields"):
        duals.main(command(records, "--captions", "a picture"))
