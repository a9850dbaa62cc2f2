"""Texts that the teacher of `trine distill --objective sequences` writes, kept in a cache piece by piece."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from trine.generation.translation.translator import Translator
from trine.scripts.arguments.distillation import DistillArguments
from trine.scripts.jobs.distillation_models import files_of
from trine.training.data.cache_folders import DEFAULT_CACHE, find_or_make


PIECE = 256  # texts that are written, and kept, at a time
FILE = "targets.json"


def write_targets(
    teacher: Translator, sources: Sequence[str], arguments: DistillArguments, batch_size: int
) -> list[tuple[str, str]]:
    """Pairs of texts and what the teacher writes for them, by beam search; texts without an answer are left out.

    Each piece of 256 texts is kept in the cache when it is written: a run that was stopped, and later runs on the same
    texts, find it there. A text that is longer than `max_length` tokens is cut off.

    Raises:
        ValueError: The teacher writes nothing for any text.
        OSError: The cache cannot be written.
    """
    key: dict[str, Any] = {
        "written by": arguments.teacher,
        "files": files_of(arguments.teacher),
        "dtype": str(teacher.model.dtype),
        "max_length": teacher.max_length,
        "num_beams": arguments.num_beams,
    }
    options = {"num_beams": arguments.num_beams, "do_sample": False, "truncation": True, "batch_size": batch_size}
    pairs: list[tuple[str, str]] = []
    with tqdm(total=len(sources), unit="texts", desc="the teacher writes", disable=None) as bar:
        for start in range(0, len(sources), PIECE):
            texts = list(sources[start : start + PIECE])

            def make(folder: Path, texts: list[str] = texts) -> None:
                (folder / FILE).write_text(json.dumps(teacher(texts, **options)), encoding="utf-8")

            made = find_or_make(Path(arguments.cache_dir or DEFAULT_CACHE), {**key, "texts": texts}, make)
            pairs += zip(texts, json.loads((made / FILE).read_text(encoding="utf-8")), strict=True)
            bar.update(len(texts))
    written = [(source, target) for source, target in pairs if target.strip()]
    if not written:
        raise ValueError(f"teacher='{arguments.teacher}' writes nothing for any of the {len(sources)} texts.")
    return written
