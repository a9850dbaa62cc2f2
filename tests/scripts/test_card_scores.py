"""Scores in a model's card."""

import warnings
from types import SimpleNamespace

import pytest

from trine.scripts.jobs.job import write_report
from trine.scripts.reports.card import write_scores


SCORES = {"model": {"loss": 0.5, "f1": 0.75}, "all O": {"f1": 0.0}}


def test_a_table_is_put_in_and_a_later_one_takes_its_place(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# A model\n\n## Limits\n\nSome.\n", encoding="utf-8")
    write_scores(card, {"model": {"accuracy": 1.0}})
    write_scores(card, SCORES)
    assert card.read_text(encoding="utf-8") == (
        "# A model\n\n## Limits\n\nSome.\n\n## Scores\n\nOn data that were held out; `metrics.json` says more.\n\n"
        "| | loss | f1 |\n|---|---|---|\n| model | 0.5000 | 0.7500 |\n| all O |  | 0.0000 |\n"
    )


def test_no_card_is_made(tmp_path):
    write_scores(tmp_path / "README.md", SCORES)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("metrics", "rows"),
    [
        ({"loss": 2.5}, ["| model | 2.5000 |"]),
        ({"loss": {"unigram": 4.0, "model": 3.0}}, ["| unigram | 4.0000 |", "| model | 3.0000 |"]),
    ],
)
def test_where_nothing_else_is_scored_the_card_tells_the_loss(metrics, rows, tmp_path):
    (tmp_path / "README.md").write_text("# A model\n", encoding="utf-8")
    trainer = SimpleNamespace(state=SimpleNamespace(log_history=[]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a run so short that nothing was logged draws a picture without lines
        write_report(trainer, tmp_path, metrics, unit="nats per token")
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[-2 - len(rows) :] == ["| | loss [nats per token] |", "|---|---|", *rows]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
