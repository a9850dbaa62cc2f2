"""Records in a file, and the command that makes an index of them."""

import json

from trine.scripts import index


def write_records(path, documents):
    lines = [json.dumps({"name": id_, "words": text}, ensure_ascii=False) + "\n" for id_, text in documents.items()]
    path.write_text("".join(lines), encoding="utf-8")


def run_index(folder, output, *argv, files="docs.jsonl"):
    words = ["--files", str(folder / files), "--output_dir", str(folder / output), "--device", "cpu"]
    return index.main([*words, "--text_field", "words", "--id_field", "name", *argv])
