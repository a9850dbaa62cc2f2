"""`trine inspect`: its pictures and its page hold what the model computes, and what cannot be shown is refused."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_wordpiece,
)
from trine.inspection import pictures as inspection_pictures
from trine.inspection.attention import WeightMap
from trine.inspection.page import write_page
from trine.scripts import cli, inspect_model


TEXTS = ["the cat sat on the mat", "a dog saw the cat </script> 语言"]
SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "export_code": False}
MIXED = {
    "num_hidden_layers": 3,
    "attention_types": "full, simplicial, sliding",
    "mlp_layer_types": "dense, sparse, sparse",
    "simplicial_backend": "chunked",  # which tells no weights
    "simplicial_window": 4,
    "simplicial_second_window": 2,
    "sliding_window": 3,
    "num_experts": 3,
}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bpe = train_byte_level_bpe(TEXTS, 400, show_progress=False)
    wordpiece = train_wordpiece(TEXTS, 200, show_progress=False)
    ids = {"vocab_size": len(bpe), "eos_token_id": bpe.eos_token_id, "pad_token_id": bpe.pad_token_id}
    start = {"decoder_start_token_id": bpe.pad_token_id, "export_code": False}
    stack = {**SMALL, **ids, "num_hidden_layers": 2}
    recurrent = {**ids, **start, "hidden_size": 8}
    torch.manual_seed(0)
    models = {
        "decoder": TrineForCausalLM(TrineConfig(**SMALL, **ids, **MIXED)),
        "encoder": TrineForMaskedLM(TrineConfig(**SMALL, vocab_size=len(wordpiece), is_causal=False)),
        "translator": TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=stack, decoder=stack, **start)),
        "lstm": TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(**recurrent, attention="dot")),
        "lstm-none": TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(**recurrent, attention="none")),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        (wordpiece if name == "encoder" else bpe).save_pretrained(folder / name)
    copying = TrineSeq2SeqConfig(encoder=stack, decoder=stack, **start, pointer_size=8)
    TrineForConditionalGeneration(copying).save_pretrained(folder / "copying")
    bpe.save_pretrained(folder / "copying")
    untied = TrineSeq2SeqConfig(encoder=stack, decoder=stack, **start, tie_word_embeddings=False)
    TrineForConditionalGeneration(untied).model.save_pretrained(folder / "headless")
    bpe.save_pretrained(folder / "headless")
    return folder


def inspect(folder, model, output, *argv):
    return cli.main(["inspect", "--model", str(folder / model), "--output_dir", str(output), *argv])


class Page(HTMLParser):
    """Attributes that would load something, and the text of each kind of element."""

    def __init__(self, path):
        super().__init__()
        self.addresses, self.texts, self.open = [], {}, None
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.open = dict(attributes).get("id") or tag
        names = ("src", "href", "srcset", "action", "data", "poster")
        self.addresses += [value for name, value in attributes if name in names]

    def handle_data(self, data):
        if data.strip():
            self.texts[self.open] = self.texts.get(self.open, "") + data

    @property
    def views(self):
        return {view["name"]: view for view in json.loads(self.texts["data"])["views"]}


def numbers(view, index):
    layer = view["layers"][index]
    found = np.frombuffer(base64.b64decode(layer["weights"]), "<f4")
    return torch.tensor(found).view(layer["heads"], len(view["rows"]), len(view["columns"]))


def assert_self_contained(page):
    assert page.addresses == ["data:,"]
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttp|import\(", page.html.split('id="data">')[0])
    assert "default-src 'none'" in page.html


def eager(folder, name, auto_class=AutoModel):
    model = auto_class.from_pretrained(folder / name, attn_implementation="eager")
    for module in model.modules():
        if hasattr(module, "config") and hasattr(module.config, "simplicial_backend"):
            module.config.simplicial_backend = "eager"
    return model.eval(), AutoTokenizer.from_pretrained(folder / name)


def write_tagged(path):
    records = [{"tokens": ["the", "cat", "sat"], "tags": ["at", "nn", "vb"]}] * 3
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_decoder_with_experts(folder, tmp_path, capsys):
    tagged = write_tagged(tmp_path / "tagged.jsonl")
    text = TEXTS[1]
    words = ["--text", text, "--tagged", tagged, "--tagged_records", "2"]
    assert inspect(folder, "decoder", tmp_path / "out", *words) == 0
    page = Page(tmp_path / "out" / "inspection.html")
    assert_self_contained(page)
    model, tokenizer = eager(folder, "decoder")
    inputs = tokenizer(text, return_tensors="pt")
    outputs = model(inputs["input_ids"], output_attentions=True, output_router_logits=True)
    names = ["self-attention", "self-attention (second keys)", "experts", "experts by tag"]
    assert list(page.views) == names
    for name, expected in ((names[0], outputs.attentions), (names[1], outputs.second_attentions)):
        view = page.views[name]
        assert len(view["layers"]) == len(expected) > 0 and len(view["rows"]) == inputs["input_ids"].shape[1]
        for index, weights in enumerate(expected):
            torch.testing.assert_close(numbers(view, index), weights[0], atol=0, rtol=0)
    assert [(layer["layer"], layer["kind"]) for layer in page.views[names[0]]["layers"]] == [
        (0, "full"),
        (1, "simplicial"),
        (2, "sliding"),
    ]
    assert "语 1/3" in page.views[names[0]]["rows"]
    for index, logits in enumerate(outputs.router_logits):
        chosen = numbers(page.views["experts"], index)[0] > 0
        assert torch.equal(chosen.nonzero()[:, 1].view(-1, 2), logits.topk(2).indices.sort().values)
    assert page.views["experts by tag"]["rows"][0] == "(all) (8)"  # "sat" is two pieces
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        *(f"self-attention-layer-{layer}.png" for layer in range(3)),
        "self-attention-second-keys-layer-1.png",
        *(f"experts{kind}-layer-{layer}.png" for layer in (1, 2) for kind in ("", "-by-tag")),
    }
    printed = capsys.readouterr().out
    assert "2 of 3 tagged records are read." in printed and "8 pictures: " in printed
    assert re.search(r"\(all\) +8 pieces( +\d+\.\d){3}\n", printed)


@pytest.mark.parametrize("target", ["a dog", None])
def test_what_a_pointer_copied(folder, tmp_path, capsys, target):
    words = ["--text", "the cat", "--max_length", "12", *(["--target", target] if target else [])]
    assert inspect(folder, "copying", tmp_path, *words) == 0
    view = Page(tmp_path / "inspection.html").views["copies"]
    assert numbers(view, 0).shape == (1, len(view["rows"]), len(view["columns"]))
    torch.testing.assert_close(numbers(view, 0).sum(-1), torch.ones(1, len(view["rows"])))
    assert all(re.match(r"[01]\.\d\d ", row) for row in view["rows"])
    assert (tmp_path / "copies.png").exists()
    assert "Copied, by more than half of their probability: " in capsys.readouterr().out


def test_an_encoder_and_chosen_layers(folder, tmp_path):
    assert inspect(folder, "encoder", tmp_path, "--text", "the cat sat", "--layers", "3", "1") == 0
    page = Page(tmp_path / "inspection.html")
    (view,) = page.views.values()
    model, tokenizer = eager(folder, "encoder")
    ids = tokenizer("the cat sat", return_tensors="pt")["input_ids"]
    attentions = model(ids, output_attentions=True).attentions
    assert [layer["layer"] for layer in view["layers"]] == [1, 3]
    assert torch.equal(numbers(view, 0), attentions[1][0]) and torch.equal(numbers(view, 1), attentions[3][0])
    assert view["rows"] == tokenizer.convert_ids_to_tokens(ids[0])
    assert {path.name for path in tmp_path.glob("*.png")} == {f"self-attention-layer-{layer}.png" for layer in (1, 3)}


@pytest.mark.parametrize("target", ["a dog", None])
def test_a_translator(folder, tmp_path, capsys, target):
    words = ["--text", "the cat", "--max_length", "12", *(["--target", target] if target else [])]
    assert inspect(folder, "translator", tmp_path, *words) == 0
    views = Page(tmp_path / "inspection.html").views
    model, tokenizer = eager(folder, "translator", AutoModelForSeq2SeqLM)
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    if target:
        end = torch.tensor([[model.config.eos_token_id]])  # which the tokenizer does not add, and the model writes
        spoken = torch.cat([start, tokenizer(target, return_tensors="pt")["input_ids"], end], 1)
    else:
        spoken = model.generate(ids, max_new_tokens=12)
    assert ("as given" if target else "as generated") in capsys.readouterr().out
    outputs = model(input_ids=ids, decoder_input_ids=spoken[:, :-1], output_attentions=True)
    assert list(views) == ["encoder self-attention", "decoder self-attention", "cross-attention", "alignment"]
    for layer in range(2):
        assert torch.equal(numbers(views["cross-attention"], layer), outputs.cross_attentions[layer][0])
        assert torch.equal(numbers(views["encoder self-attention"], layer), outputs.encoder_attentions[layer][0])
        assert torch.equal(numbers(views["decoder self-attention"], layer), outputs.decoder_attentions[layer][0])
    mean = torch.stack(outputs.cross_attentions).mean((0, 1, 2))
    torch.testing.assert_close(numbers(views["alignment"], 0)[0], mean)
    assert views["alignment"]["rows"][:-1] == views["cross-attention"]["rows"][1:]
    assert (tmp_path / "alignment.png").is_file()


def test_a_recurrent_translator(folder, tmp_path):
    assert inspect(folder, "lstm", tmp_path, "--text", "the cat", "--target", "a dog") == 0
    assert list(Page(tmp_path / "inspection.html").views) == ["cross-attention", "alignment"]
    with pytest.raises(SystemExit, match="trine: No attention weights .* attention='none'; only 'dot' has weights"):
        inspect(folder, "lstm-none", tmp_path / "none", "--text", "the cat", "--target", "a dog")
    assert not (tmp_path / "none").exists()


def test_experts_are_shown_where_attention_has_no_weights(folder, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise inspect_model.NoWeights("No attention weights here.")

    monkeypatch.setattr(inspect_model, "attention_maps", refuse)
    assert inspect(folder, "decoder", tmp_path, "--text", "the cat") == 0
    page = Page(tmp_path / "inspection.html")
    assert list(page.views) == ["experts"] and "No attention weights here." in page.texts["data"]
    with pytest.raises(SystemExit, match="No attention weights here."):
        inspect(folder, "encoder", tmp_path, "--text", "the cat")


@pytest.mark.parametrize(
    ("model", "argv", "message"),
    [
        ("decoder", ["--text", "the cat " * 99], r"text has \d+ tokens, more than max_length=128"),
        ("decoder", ["--text", ""], "text='' is empty"),
        ("decoder", ["--text", "cat", "--target", "dog"], "target='dog' needs an encoder-decoder"),
        ("decoder", ["--text", "cat", "--layers", "7"], r"layers=\[7\] has \[7\], but the choices are \[0, 1, 2\]"),
        ("encoder", ["--tagged", "{tagged}"], "no layer that reads the words is 'sparse'"),
        ("decoder", ["--tagged", "{tagged}", "--tags_field", "pos"], "the field 'pos' is missing"),
        ("decoder", ["--tagged", "{empty}"], "tagged=.* no records"),
        ("headless", ["--text", "cat"], r"cannot generate, as it lacks \['lm_head.weight'\]: give a target"),
        ("nowhere", ["--text", "cat"], "nowhere"),
    ],
)
def test_errors(folder, tmp_path, model, argv, message):
    files = {"tagged": write_tagged(tmp_path / "tagged.jsonl"), "empty": str(tmp_path / "empty.jsonl")}
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(SystemExit, match=f"trine( inspect)?: (.|\n)*{message}"):
        inspect(folder, model, tmp_path / "out", *(text.format(**files) for text in argv))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "x", "tagged": ["f"]}, "target='x' needs a text"),
        ({"text": "x", "max_length": 1}, "max_length=1 must be at least 2"),
        ({"text": "x", "tagged_records": -1}, "tagged_records=-1 must be at least 0"),
    ],
)
def test_bad_arguments(fields, message):
    with pytest.raises(ValueError, match=message):
        inspect_model.InspectArguments(model="m", **fields)


def test_a_picture_has_its_weights(tmp_path):
    """Dark where a weight is large, pale where it is none, in every panel."""
    weights = torch.zeros(2, 4, 6)
    weights[0, 1, 2] = weights[1, 3, 5] = 1
    item = WeightMap("self-attention", 0, "full", list("abcd"), list("uvwxyz"), weights)
    inspection_pictures.draw_map(item, tmp_path / "map.png")
    picture = matplotlib.image.imread(tmp_path / "map.png")[..., :3]
    dark = np.abs(picture - np.array([8, 48, 107]) / 255).max(-1) < 0.01  # the end of the scale
    rows, columns = dark.nonzero()
    left, right = columns < columns.mean(), columns > columns.mean()
    assert left.sum() == pytest.approx(right.sum(), rel=0.1)
    assert rows[left].max() < rows[right].min()  # the second row of one, the fourth of the other


def test_weights_in_units_of_even_ones():
    """A causal head that looks evenly has a first row of 1, and is even all the same."""
    even = torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]
    assert inspection_pictures.times_even(even) == pytest.approx(1)
    strong = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.8, 0.1, 0], [0.25, 0.25, 0.25, 0.25]])
    assert inspection_pictures.times_even(strong) == pytest.approx(2.4)


def test_short_texts_come_with_a_warning(folder, tmp_path, capsys):
    for text, warns in {"the": True, "the cat sat on the mat": False}.items():
        assert inspect(folder, "encoder", tmp_path / text, "--text", text) == 0
        assert ("Warning: with fewer than 4 tokens" in capsys.readouterr().out) is warns


def test_signs_that_no_font_has(monkeypatch, caplog):
    assert inspection_pictures.fonts_for(["plain", "é"]) == []
    assert not caplog.records
    for _ in range(2):  # it is said once
        assert inspection_pictures.fonts_for(["\U000e0fff"]) == []
    (record,) = caplog.records
    assert re.fullmatch("No installed font has \U000e0fff: .*fonts-noto-cjk.", record.getMessage())


def test_labels_are_never_markup(tmp_path):
    labels = ["</script><img src=x>", "<!--", "&lt;", '"', "\u2028"]
    item = WeightMap("self-attention", 0, "full", labels, labels, torch.eye(5)[None])
    write_page([item], "</title>", ["<b>"], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.views["self-attention"]["rows"] == labels
    assert_self_contained(page)


# What a reader does: chooses the last view, then a layer and a head of the first, and points at a token.
ACTIONS = """<script>
document.querySelector("#views button:last-child").click();
document.querySelector("#views button").click();
for (const [name, value] of [["layer", 1], ["head", 1]]) {
  const select = document.getElementById(name);
  select.value = value;
  select.dispatchEvent(new Event("change"));
}
document.querySelectorAll("#rows .token")[2].dispatchEvent(new PointerEvent("pointerenter"));
</script>"""


def rendered(path, address=""):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}"]
    command = [str(BROWSER), *options, "--virtual-time-budget=3000", "--dump-dom", f"{path.as_uri()}{address}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def shown_weights(dom, name):
    part = dom.split(f'id="{name}">')[1].split("</div>")[0]
    return torch.tensor([float(weight) for weight in re.findall(r'data-weight="([^"]+)"', part)])


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is on PATH")
def test_a_browser_runs_the_page(folder, tmp_path):
    assert inspect(folder, "decoder", tmp_path, "--text", TEXTS[1]) == 0
    path = tmp_path / "inspection.html"
    views = Page(path).views
    first, second = views["self-attention"], views["self-attention (second keys)"]
    dom = rendered(path, "#view=0&layer=2&head=0&row=3")
    assert 'data-ready="3"' in dom
    assert torch.equal(shown_weights(dom, "columns"), numbers(first, 2)[0, 3])
    assert "self-attention · layer 2 (sliding) · head 0" in dom
    page = path.read_text(encoding="utf-8").replace("</body>", f"{ACTIONS}</body>")
    (tmp_path / "used.html").write_text(page, encoding="utf-8")
    dom = rendered(tmp_path / "used.html")
    assert "self-attention · layer 1 (simplicial) · head 1" in dom
    assert torch.equal(shown_weights(dom, "columns"), numbers(first, 1)[1, 2])
    assert torch.equal(shown_weights(dom, "seconds"), numbers(second, 0)[1, 2])
    means = rendered(path, "#view=0&layer=1&head=-1&row=2")
    torch.testing.assert_close(shown_weights(means, "columns"), numbers(first, 1)[:, 2].mean(0))
