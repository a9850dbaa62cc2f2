"""Scores in a model's card."""

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
