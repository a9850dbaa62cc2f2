"""`trine index --image_field` and `trine search`: pictures are found by words, and what is none is refused."""

import json

import pytest
import torch
from PIL import Image
from support.duals import TEXTS, dual_encoder, processor
from support.searches import save_encoder
from transformers import AutoProcessor

from trine.scripts import index, search


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its processor, and pictures of several modes with records that name them."""
    folder, made = tmp_path_factory.mktemp("pictures"), processor()
    model = dual_encoder({"vocab_size": len(made.tokenizer)}, dtype=torch.float32, vision_pooling="attention")
    model.save_pretrained(folder / "model")
    made.save_pretrained(folder / "model")
    (folder / "data" / "some").mkdir(parents=True)
    colours = {"red.png": "red", "blue.jpg": "blue", "grey.bmp": 90, "clear.png": (9, 200, 30, 100)}
    modes = {"grey.bmp": "L", "clear.png": "RGBA"}
    for name, colour in colours.items():
        picture = Image.new(modes.get(name, "RGB"), (30, 20), colour)
        picture.paste(picture.resize((9, 9)).rotate(30), (3, 3))
        picture.save(folder / "data" / "some" / name)
    lines = [json.dumps({"picture": f"some/{name}", "id": name}) + "\n" for name in colours]
    (folder / "data" / "records.jsonl").write_text("".join(lines))
    return folder


def run(folder, *argv: str, records: str = "records.jsonl", output: str = "index") -> int:
    named = ["--files", str(folder / "data" / records), "--output_dir", str(folder / output), "--device", "cpu"]
    return index.main([*named, "--image_field", "picture", "--id_field", "id", *argv])


@torch.no_grad()
def test_pictures_are_found_by_words(folder, capsys):
    assert run(folder, "--model", str(folder / "model")) == 0 and "4 documents in" in capsys.readouterr().out
    model = dual_encoder({"vocab_size": 120}, dtype=torch.float32).from_pretrained(folder / "model")
    prepare = AutoProcessor.from_pretrained(folder / "model")
    names = [path.name for path in sorted((folder / "data" / "some").iterdir())]
    pictures = [Image.open(folder / "data" / "some" / name) for name in names]
    for text in TEXTS:
        options = ["--json", "-k", "4", "--lexical_weight", "0", "--device", "cpu"]  # names of files count as words
        search.main([text, "--index", str(folder / "index"), *options])
        hits = json.loads(capsys.readouterr().out)["hits"]
        inputs = prepare(text=[text], images=[each.convert("RGB") for each in pictures], return_tensors="pt")
        order = model(**inputs).logits_per_text[0].argsort(descending=True).tolist()
        assert [hit["id"] for hit in hits] == [names[place] for place in order]
        assert all(hit["text"].endswith(f"data/some/{hit['id']}") for hit in hits)


def test_what_is_no_picture_is_refused(folder, tmp_path):
    data = (folder / "data" / "some" / "red.png").read_bytes()
    (folder / "data" / "some" / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "data" / "some" / "words.txt").write_text("words")
    lines = [{"picture": f"some/{name}", "id": name} for name in ("cut.png", "words.txt", "none.png")]
    (folder / "data" / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SystemExit) as stop:
        run(folder, "--model", str(folder / "model"), records="bad.jsonl", output="bad")
    for part in (
        "3 records cannot be used",
        "cut.png', which cannot be read",
        "words.txt', which is no file that ends",
    ):
        assert part in str(stop.value)
    save_encoder(tmp_path / "encoder")
    with pytest.raises(SystemExit, match="image_field='picture' is a picture, but model='.*' reads texts alone"):
        run(folder, "--model", str(tmp_path / "encoder"), output="texts")
