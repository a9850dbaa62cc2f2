"""`trine words`: what it prints is gensim's, its map and page hold the vectors, and bad input is a line."""

import json
import logging
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES
from transformers import AutoTokenizer, BertConfig, BertModel

from trine import TrineConfig, TrineForMaskedLM, TrineModel, train_wordpiece
from trine.inspection import word_vectors
from trine.scripts import cli, words
from trine.scripts.jobs.word_tests import score_analogies


NAMES = ["king", "queen", "man", "woman", "apple", "banana", "fruit", "company", "phone", "river", "house", "bird"]
TEXTS = [f"the {a} saw a {b} by the river, and ate it" for a in NAMES for b in NAMES] + ["苹果是水果，苹果公司卖手机"]
QUESTIONS = (
    ": family\nking man queen woman\nMan King Woman Queen\nking man zebra woman\n: food\napple fruit banana fruit\n"
)
PAIRS = "# pairs\nking\tqueen\t8.5\nman\tWoman\t8\napple\tbanana\t6\nriver\tphone\t1\nhouse\tkingbird\t2\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer = train_wordpiece(TEXTS, 200, show_progress=False)
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "export_code": False}
    TrineModel(TrineConfig(**sizes, is_causal=False)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    files = {"questions.txt": QUESTIONS, "pairs.tsv": PAIRS, "list.txt": "\n".join(NAMES)}
    files |= {"glove.txt": "king 1 0\nqueen 0.9 0.1\nman 0 1\n", "empty.txt": "", "noheader.txt": "a b c d\n"}
    files |= {
        "bad.txt": ": s\na b c\n",
        "unknown.tsv": "☃\t☂\t1\n",
        "bad.tsv": "a\tb\tc\n",
        "nan.tsv": "king\tqueen\t8\na\tb\tnan\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def ask(folder, capsys, *argv):
    """What the command prints, of files of the folder."""
    named = [str(folder / word) if (folder / word).is_file() else word for word in argv]
    cli.main(["words", *named])
    return capsys.readouterr().out


def load(folder):
    encoder = SentenceTransformer(str(folder / "model"), device="cpu")
    return encoder, encoder.tokenizer


def table(found):
    width = max(len(word) for word, _ in found)
    return "".join(f"  {word:<{width}}  {cosine:.4f}\n" for word, cosine in found)


def test_sums_neighbours_and_files_of_vectors(folder, capsys):
    vectors = word_vectors(*load(folder))
    model = str(folder / "model")
    printed = ask(folder, capsys, model, "king - man + woman", "-k", "3", "--nearest", "River")
    assert printed.startswith(f"By {model}, input embeddings, {len(vectors)} words:\nNearest to king - man + woman:\n")
    assert table(vectors.most_similar(["king", "woman"], ["man"], topn=3)) in printed
    assert "Note: 'River' is 'river' to this tokenizer.\n" in printed
    assert table(vectors.most_similar("river", topn=3)) in printed


def test_vectors_beside_a_model_and_alone(folder, capsys):
    printed = ask(folder, capsys, str(folder / "model"), "king", "-k", "1", "--vectors", "glove.txt")
    assert printed.endswith(f"By {folder / 'glove.txt'}, 3 words:\nNearest to king:\n  queen  0.9939\n")
    printed = ask(folder, capsys, "king", "-", "man", "-k", "1", "--vectors", "glove.txt")
    assert printed.endswith("Nearest to king - man:\n  queen  0.6247\n")  # (0.9 - 0.1) / (√2 √0.82)


def test_an_equation(folder, capsys):
    vectors = word_vectors(*load(folder))
    rows = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    king, man, queen, woman = (rows[vectors.key_to_index[word]] for word in ("king", "man", "queen", "woman"))
    left, right, solved = king - man, queen - woman, king - man + woman
    cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    printed = ask(folder, capsys, str(folder / "model"), "king - man = queen - woman", "-k", "2")
    assert f"king - man = queen - woman: the cosine of both sides is {cosine:.4f}.\n" in printed
    others = [word for word in vectors.index_to_key if word not in ("king", "man", "woman")]
    order = sorted(others, key=lambda word: -(rows[vectors.key_to_index[word]] @ solved))
    assert f"Nearest to king + woman - man:\n  {order[0]}" in printed
    assert f"'queen' is number {order.index('queen') + 1} of them." in printed


def test_layers_and_words_of_a_file(folder, capsys):
    encoder, tokenizer = load(folder)
    for layer, place in (("2", "states of layer 2"), ("sentence", "sentence embeddings")):
        vectors = word_vectors(encoder, tokenizer, NAMES, "sentence" if layer == "sentence" else 2)
        printed = ask(
            folder, capsys, str(folder / "model"), "king", "--layer", layer, "--words", "list.txt", "-k", "4"
        )
        assert f"{place}, 12 words:" in printed and table(vectors.most_similar("king", topn=4)) in printed
    printed = ask(folder, capsys, str(folder / "model"), "king", "--layer", "-1", "--most_words", "7", "-k", "1")
    assert "layer -1, 7 words" in printed


def test_analogies_are_gensims(folder, capsys):
    vectors = word_vectors(*load(folder))
    score, sections = vectors.evaluate_word_analogies(str(folder / "questions.txt"))
    printed = ask(folder, capsys, str(folder / "model"), "--analogies", "questions.txt")
    for part in sections[:-1]:
        right, wrong = len(part["correct"]), len(part["incorrect"])
        assert re.search(rf"  {part['section']} +{right} of +{right + wrong}  ", printed)
    assert re.search(rf"  total +\d of +3  {score:.3f} \(", printed)
    assert "1 questions hold words that are not among the vectors" in printed
    printed = ask(folder, capsys, str(folder / "model"), "--analogies", "questions.txt", "--pieces")
    assert re.search(r"  total +\d of +4  ", printed)


def answer(rows, quad):
    """The nearest row to b - a + c that is none of the three."""
    cosines = rows @ (rows[quad[1]] - rows[quad[0]] + rows[quad[2]])
    cosines[quad[:3]] = -np.inf
    return cosines.argmax()


def test_analogies_are_numpys(tmp_path):
    names, draws = [f"w{n}" for n in range(40)], np.random.default_rng(0)
    vectors = KeyedVectors(8)
    vectors.add_vectors(names, draws.normal(size=(40, 8)).astype(np.float32))
    rows = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    quads = [draws.choice(40, 4, replace=False) for _ in range(30)]
    for quad in quads[:20]:  # most of which are right
        quad[3] = answer(rows, quad)
    lines = [" ".join(names[n] for n in quad) for quad in quads]
    (tmp_path / "q.txt").write_text("\n".join([": one", *lines[:15], ": two", *lines[15:]]))
    right = [bool(answer(rows, quad) == quad[3]) for quad in quads]
    scores = score_analogies(vectors, tmp_path / "q.txt")
    assert scores.sections == {"one": (sum(right[:15]), 15), "two": (sum(right[15:]), 15), "total": (sum(right), 30)}
    low, high = scores.interval
    assert 0 < low < sum(right) / 30 < high <= 1 and scores.skipped == 0


def test_similarity_is_numpys(folder, capsys):
    vectors = word_vectors(*load(folder))
    pairs = [("king", "queen", 8.5), ("man", "woman", 8), ("apple", "banana", 6), ("river", "phone", 1)]
    cosines = [
        np.dot(vectors[a], vectors[b]) / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]) for a, b, _ in pairs
    ]
    judged = [each[2] for each in pairs]
    printed = ask(folder, capsys, str(folder / "model"), "--similarity", "pairs.tsv")
    spearman, pearson = spearmanr(cosines, judged)[0], np.corrcoef(cosines, judged)[0, 1]
    assert f"Spearman {spearman:.4f}, Pearson {pearson:.4f}; 4 of 5 pairs, 20.0 % out of" in printed
    assert "5 of 5 pairs, 0.0 % out of" in ask(
        folder, capsys, str(folder / "model"), "--similarity", "pairs.tsv", "--pieces"
    )
    assert "left out" not in printed


def test_lines_without_a_judgement_are_told(folder, capsys):
    lines = ["# a comment", "king\tqueen\t8.5", "", "man\twoman\teight", "apple banana 6", "river\tphone\t1"]
    (folder / "broken.tsv").write_text("\n".join(lines))
    printed = ask(folder, capsys, str(folder / "model"), "--similarity", "broken.tsv")
    assert "2 of 2 pairs" in printed
    assert (
        "2 lines are no two words and a number with tabs between them, and are left out; the first is line 4"
        in printed
    )


def test_nearest_may_be_repeated(folder, capsys):
    printed = ask(folder, capsys, str(folder / "model"), "--nearest", "king", "--nearest", "queen", "-k", "1")
    assert "Nearest to king" in printed and "Nearest to queen" in printed


def test_the_files_that_come_with_gensim(folder, capsys):
    encoder, tokenizer = load(folder)
    lines = Path(datapath("simlex999.txt")).read_text().splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    vectors = word_vectors(encoder, tokenizer, [word for pair in pairs for word in pair[:2]])
    cosines = [vectors.similarity(a, b) for a, b, _ in pairs]
    judged = [float(number) for *_, number in pairs]
    printed = ask(folder, capsys, str(folder / "model"), "--similarity", "simlex999", "--pieces")
    spearman = spearmanr(cosines, judged)[0]
    found = re.search(r"simlex999.txt: Spearman (\S+) \((\S+) to (\S+)\).* 999 of 999 pairs, 0.0 %", printed)
    assert float(found[1]) == pytest.approx(spearman, abs=1e-3) and float(found[2]) < spearman < float(found[3])


def test_one_word_in_two_sentences(folder, tmp_path, capsys, caplog):
    contexts = ["--context", "苹果是水果", "--context", "苹果公司卖手机", "--compare", "水果", "公司", "-k", "2"]
    model = str(folder / "model")
    printed = ask(folder, capsys, model, "苹果", *contexts, "--map_dir", str(tmp_path / "map"), "--layer", "1")
    lines = printed.splitlines()
    assert lines[0].startswith("  1: 苹果是水果  (苹") and lines[1].startswith("  2: 苹果公司卖手机  (苹")
    assert lines[2] == "Layer 0: cosine of 1 and 2 1.000" and sum(line.startswith("Layer ") for line in lines) == 3
    assert re.match(r"  1: 水果 -?\d\.\d{3}, 公司 -?\d\.\d{3} \| \S+ -?\d\.\d{3}, \S+ -?\d\.\d{3}$", lines[3])
    page = (tmp_path / "map" / "words.html").read_text(encoding="utf-8")
    views = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))["views"]
    assert [view["name"] for view in views] == [f"苹果, layer {layer}" for layer in range(3)]
    assert views[1]["labels"][:4] == ["苹果 (1)", "苹果 (2)", "水果", "公司"]
    cosine = float(re.search(r"Layer 2: cosine of 1 and 2 (\S+)", printed).group(1))
    assert views[2]["cosines"][0][1] == pytest.approx(cosine, abs=6e-4)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|fetch\(", page)
    assert matplotlib.image.imread(tmp_path / "map" / "words.png").std() > 0.01


def test_a_map_of_a_sum(folder, tmp_path, capsys):
    ask(folder, capsys, str(folder / "model"), "king - man", "-k", "3", "--map_dir", str(tmp_path))
    page = (tmp_path / "words.html").read_text(encoding="utf-8")
    (view,) = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))["views"]
    assert view["labels"][:2] == ["king", "man"] and view["labels"][-1] == "= king - man"
    assert view["kinds"] == ["asked"] * 2 + ["found"] * 3 + ["result"] and (tmp_path / "words.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["king - "], "has no word after a '-'"),
        (["king = "], "expression='king = ' has nothing after its '='"),
        (["☃"], "The word '☃' is unknown"),
        (["king", "--layer", "9"], "layer=9 must be 0 for the input embeddings, 1 to 2"),
        (["king", "--words", "empty.txt"], "words='.*' holds no words"),
        (["king", "--words", "{folder}/none.txt"], "words='.*none.txt' cannot be read"),
        (["--similarity", "nan.tsv"], "similarity='.*', line 2: the judgement nan is not finite"),
        (["--analogies", "bad.txt"], "analogies='.*' has no questions, lines of four words"),
        (["--analogies", "noheader.txt"], "line 1: a line ': SECTION' has to come before"),
        (["--analogies", "none"], r"analogies='none' is neither a file nor one of \['questions-words'\]"),
        (["--similarity", "bad.tsv"], "similarity='.*' has no pairs"),
        (["--similarity", "unknown.tsv"], "similarity='.*' has 1 pairs, of which the vectors know 0"),
        (["king", "--vectors", "empty.txt"], "vectors='.*' holds no vectors"),
        (["king", "--context", "a king", "--context", "a bird"], "context='a bird' does not hold the word 'king'"),
        (["king", "--context", "a king", "--context", "king", "--layer", "7"], "layer=7 must be"),
    ],
)
def test_what_is_refused(folder, capsys, argv, message):
    with pytest.raises(SystemExit, match=f"trine words: .*{message}"):
        ask(folder, capsys, str(folder / "model"), *(word.format(folder=folder) for word in argv))


def test_a_head_is_no_news_and_lacking_weights_are(folder, capsys, caplog, monkeypatch, tmp_path):
    """The trunk of a model with a head is read without a report; one that is not whole is refused."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # else caplog hears nothing
    trunk = TrineModel.from_pretrained(folder / "model")
    model = TrineForMaskedLM(trunk.config)
    model.base_model.load_state_dict(trunk.state_dict(), strict=False)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(tmp_path)
    expected = ask(folder, capsys, str(folder / "model"), "king").split("\n", 1)[1]
    caplog.clear()
    assert ask(folder, capsys, str(tmp_path), "king").split("\n", 1)[1] == expected
    assert "LOAD REPORT" not in caplog.text
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=trunk.config.vocab_size, **sizes)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit, match="trine words: model='.*' lacks 1 of the weights of BertModel"):
        ask(folder, capsys, str(tmp_path), "king")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Nothing is asked of model='m'"),
        ({"model": None, "expression": "a"}, "model is missing"),
        ({"expression": "a", "context": ["a"]}, "context needs a model, a word and at least two sentences"),
        ({"expression": "a", "context": ["a", "a"], "layer": "sentence"}, "context is asked alone"),
        ({"expression": "a", "compare": ["b"]}, "compare needs context"),
        ({"nearest": ["a", " "]}, r"nearest=\['a', ' '\] holds an empty word"),
        ({"analogies": "a", "map_dir": "d"}, "map_dir needs an expression"),
        ({"expression": "a", "layer": "x"}, "layer='x' is neither a number nor 'sentence'"),
        ({"expression": "a", "device": "foo"}, r"device='foo' is not one of \['cpu'"),
        ({"expression": "a", "k": 0}, "k=0 must be at least 1"),
        ({"expression": "a", "most_words": -1}, "most_words=-1 must be at least 0"),
    ],
)
def test_bad_arguments(fields, message):
    with pytest.raises(ValueError, match=message):
        words.WordsArguments(**{"model": "m", **fields})
