"""Data sets by name: which part is meant, and that they are prepared once. `datasets` finds folders by name, too."""

import json
import sys

import datasets
import pytest

from trine.tokenization.hub_data import ROWS, HubData, iterate_rows
from trine.tokenization.text_files import iterate_text_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two configurations, as a card names them, and two splits."""
    folder = tmp_path_factory.mktemp("data-set")
    card = "---\nconfigs:\n"
    for config in ("en", "zh"):
        card += f"- config_name: {config}\n  data_files:\n"
        for split in ("train", "test"):
            card += f"  - split: {split}\n    path: {config}/{split}.jsonl\n"
            (folder / config).mkdir(exist_ok=True)
            rows = [{"text": f"{config} {split} {number}"} for number in range(4)]
            (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(f"{card}---\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:a/b", ("a/b", None, "train")),
        ("hf:a/b:test", ("a/b", None, "test")),
        ("hf:a/b:en:test", ("a/b", "en", "test")),
        ("hf:a/b:en:", ("a/b", "en", "train")),
        ("hf:a/b::test", ("a/b", None, "test")),
        ("hf:a/b:train[10%:20%]", ("a/b", None, "train[10%:20%]")),
        ("hf:a/b:en:train[:5]", ("a/b", "en", "train[:5]")),
    ],
)
def test_names(source, expected):
    named = HubData(source)
    assert (named.name, named.config, named.split) == expected and str(named) == source


@pytest.mark.parametrize("source", ["hf:", "hf::test", "hf:a:b:c:d"])
def test_names_of_nothing(source):
    with pytest.raises(ValueError, match=f"'{source}' does not name a data set: write hf:NAME, hf:NAME:SPLIT or"):
        HubData(source)


def test_a_configuration_and_a_split(folder):
    assert [*iterate_text_files([f"hf:{folder}:zh:test"])] == [f"zh test {number}" for number in range(4)]
    assert [*iterate_text_files([f"hf:{folder}:en:train[1:3]"])] == ["en train 1", "en train 2"]


def test_what_is_not_there(folder):
    for source, message in {
        f"hf:{folder}": f"'hf:{folder}' cannot be read: Config name is missing. .*'en', 'zh'.* are named hf:NAME, ",
        f"hf:{folder}:fr:train": "cannot be read: BuilderConfig 'fr' not found. Available: .*'en', 'zh'",
        f"hf:{folder}:en:trian": """cannot be read: Unknown split "trian". Should be one of .*'train', 'test'""",
        "hf:no/such-data": "'hf:no/such-data' cannot be read: .*no/such-data",
    }.items():
        with pytest.raises(ValueError, match=message):
            [*iterate_text_files([source])]


def test_it_is_prepared_once_and_known_again(folder, tmp_path, cache, monkeypatch):
    """Another process, or a later run, has the same identity; other files have another."""
    first = HubData(f"hf:{folder}:en:train")
    assert first.identity == HubData(f"hf:{folder}:en:train").identity
    assert len({first.identity, *(HubData(f"hf:{folder}:{name}").identity for name in ("zh:train", "en:test"))}) == 3
    assert [*first.records(["text"])] == [(number + 1, {"text": f"en train {number}"}) for number in range(4)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it is there"))
    assert len([*first.records(["text"])]) == 4


def test_other_files_have_another_identity(tmp_path):
    (tmp_path / "data").mkdir()
    identities = []
    for text in ("one", "two"):
        (tmp_path / "data" / "train.jsonl").write_text(json.dumps({"text": f"{text} {'x' * len(identities)}"}) + "\n")
        identities.append(HubData(f"hf:{tmp_path / 'data'}").identity)
    assert identities[0] != identities[1]


def test_only_the_fields_that_are_asked_for_are_read():
    """Any number of rows, not only whole batches; where a field is missing, all are read, so that they are named."""
    data = datasets.Dataset.from_dict({"text": [str(n) for n in range(ROWS + 3)], "other": [0] * (ROWS + 3)})
    assert [*iterate_rows(data, ["text"])] == [(n + 1, {"text": str(n)}) for n in range(ROWS + 3)]
    assert [*iterate_rows(data.select([]), ["text"])] == []
    assert next(iterate_rows(data, ["text", "label"])) == (1, {"text": "0", "other": 0})


def test_without_datasets(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs datasets: pip install 'trine\[scripts\]'"):
        HubData(f"hf:{folder}").data  # noqa: B018
