"""The tasks of the study equal their definitions; its models are equally large; every experiment runs."""

import json
import re

import pytest
import torch

from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.studies.simplicial import (
    EQUAL_TIME,
    EXPERIMENTS,
    SLOWEST,
    ChainSums,
    Generated,
    Problems,
    RealText,
    WordProblems,
    main,
    token_losses,
)
from trine.scripts.studies.simplicial_tasks import (
    COMMON_ENDING,
    DOMAIN,
    MODULUS,
    SET_SIZE,
    composition,
    gym_problems,
    match3,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "package-descriptions").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # judging is quick here
        for experiment, held_out in ((Generated, 256), (Problems, 100), (RealText, 8)):
            patch.setattr(experiment, "held_out", held_out)
        yield write_descriptions(folder)


def write_descriptions(folder):
    rows = [{"long": f"The package {i} has a library and its naïve tools.\nIt is number {i * i}."} for i in range(300)]
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "package-descriptions" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_match3_finds_what_three_loops_find():
    batch = match3(50, generator())
    assert batch["input_ids"].shape == batch["labels"].shape == (50, SET_SIZE)
    assert int(batch["input_ids"].min()) >= 0 and int(batch["input_ids"].max()) < MODULUS
    for numbers, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        expected = [int(any((x + y + z) % MODULUS == 0 for y in numbers for z in numbers)) for x in numbers]
        assert labels == expected


def test_the_majority_of_match3_is_as_the_report_says():
    share = float(match3(4096, generator(9))["labels"].float().mean())
    assert f"{100 * share:.1f} % are yes" in EXPERIMENTS["match3"].description


def test_composition_looks_up_two_listed_functions():
    batch = composition(50, generator())
    assert batch["input_ids"].shape == (50, 2 * DOMAIN + 1)
    for ids, label in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        g = dict(divmod(token, DOMAIN) for token in ids[:DOMAIN])
        f = dict(divmod(token - DOMAIN**2, DOMAIN) for token in ids[DOMAIN:-1])
        assert sorted(g) == sorted(g.values()) == sorted(f) == list(range(DOMAIN))
        assert f[g[ids[-1] - 2 * DOMAIN**2]] == label
    orders = {tuple(token // DOMAIN for token in ids[:DOMAIN]) for ids in batch["input_ids"].tolist()}
    assert len(orders) > 40


def test_word_problems_are_new_and_have_numbers_for_answers():
    held_out = gym_problems("gsm_symbolic", 50, seed=0)
    questions = {question for question, _ in held_out}
    problems = gym_problems("gsm_symbolic", 200, seed=0, without=questions)
    assert (len(questions), len(held_out), len(problems)) == (50, 50, 200)
    assert len({question for question, _ in problems} - questions) == 200
    assert held_out == gym_problems("gsm_symbolic", 50, seed=0) != gym_problems("gsm_symbolic", 50, seed=1)
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for _, answer in problems)
    assert not any(COMMON_ENDING in question for question, _ in problems)


def test_sums_are_right():
    problems = gym_problems("chain_sum", 1000, seed=0)
    assert all(re.fullmatch(r"\d([+-]\d){1,3}=", question) for question, _ in problems)
    assert all(eval(question[:-1]) == int(answer) for question, answer in problems)


def test_the_most_frequent_answer_is_as_the_report_says():
    answers = [answer for _, answer in gym_problems("chain_sum", ChainSums.held_out, seed=0)]
    share = 100 * max(map(answers.count, answers)) / len(answers)
    assert f" {share:.1f} % have the most frequent answer" in " ".join(ChainSums.description.split())


@pytest.mark.parametrize(
    ("shares", "verdicts"),
    [
        ({"dot product": 0.1, f"dot product{EQUAL_TIME}": 0.4}, ["undecided", "refuted"]),
        ({"dot product": 0.05}, ["kept"]),
        ({}, []),
    ],
)
def test_claims_about_sums_are_judged_by_the_error_of_two_shares(shares, verdicts):
    """Of two shares near 0.1 of 1,000 problems, the difference has a standard error of 0.0134."""
    runs = [{"model": name, "metrics": {"exact match": share}} for name, share in {SLOWEST: 0.1, **shares}.items()]
    told = ChainSums.conclude(runs)
    assert re.findall(r"\*\*(\w+)\*\*", told) == verdicts
    assert ("+0.000 (-0.026 to +0.026), seeds: 1." in told) == (shares.get("dot product") == 0.1)


def test_only_answers_are_learnt_of_sums_and_each_character_is_a_token(data):
    experiment = ChainSums(data, data, 0.02)
    batch = next(experiment.batches(0))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        question, answer = ids[labels == IGNORE_INDEX], labels[labels != IGNORE_INDEX]
        text = experiment.tokenizer.decode(answer[:-1])
        assert len(text) == len(answer) - 1 and answer[-1] == experiment.tokenizer.eos_token_id
        asked = experiment.tokenizer.decode(question[question > 0]).partition("=")[0]
        assert eval(asked) == int(text)


def test_equal_time_means_more_steps_by_the_pace(data, monkeypatch):
    experiment = ChainSums(data, data, 0.1)
    paces = {"dot product": 2.0, "hybrid": 5.0, SLOWEST: 8.0}
    monkeypatch.setattr(experiment, "pace", lambda name: paces[name.removesuffix(EQUAL_TIME)])
    steps = {name: experiment.steps_of(name) for name in experiment.models}
    assert list(steps.values()) == [experiment.steps] * 3 + [4 * experiment.steps, round(1.6 * experiment.steps)]


def test_the_pace_of_a_model_is_measured_once(data, monkeypatch):
    experiment, trained = ChainSums(data, data, 0.02), []
    monkeypatch.setattr(
        "trine.scripts.studies.simplicial.train", lambda model, _, steps, **__: trained.append(steps) or [0.0] * steps
    )
    assert experiment.pace("hybrid") == experiment.pace("hybrid") > 0 and trained == [2, 8]


@pytest.fixture(scope="module")
def word_problem_experiment(data):
    return WordProblems(data, data, 0.002)


def test_there_are_enough_short_problems_for_a_run(word_problem_experiment):
    experiment = word_problem_experiment
    assert experiment.steps * experiment.batch_size <= len(experiment.problems)
    assert 40 < len(experiment.held_out_problems) <= experiment.held_out


def test_answers_are_marked_and_every_problem_comes_once(word_problem_experiment):
    experiment = word_problem_experiment
    ids, is_answer = experiment.collate(experiment.problems[:3])
    decode = experiment.tokenizer.decode
    for row, (question, answer) in enumerate(experiment.problems[:3]):
        assert ids[row][is_answer[row]].tolist() == answer and answer[-1] == experiment.tokenizer.eos_token_id
        assert ids[row][ids[row] >= 0].tolist() == question + answer
        assert decode(question).endswith("\n") and re.fullmatch(r"-?[\d.]+", decode(answer[:-1]))
    texts = []
    for _, batch in zip(
        range(-(-len(experiment.problems) // experiment.batch_size)), experiment.batches(0), strict=False
    ):
        assert torch.equal(batch["input_ids"], batch["labels"].clamp(min=0))
        texts += [decode(row[row >= 0]) for row in batch["labels"]]
    assert sorted(texts) == sorted(decode(question + answer) for question, answer in experiment.problems)


def test_the_exact_match_is_that_of_greedy_search(word_problem_experiment):
    """A model that has learnt a few problems by heart answers some of them; `generate` says which."""
    experiment = word_problem_experiment
    torch.manual_seed(0)
    model = experiment.build("dot product")
    held_out, experiment.held_out_problems = experiment.held_out_problems, experiment.problems[:8]
    ids, _ = experiment.collate(experiment.held_out_problems)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        model(input_ids=ids.clamp(min=0), labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    right, end = 0, experiment.tokenizer.eos_token_id
    for question, answer in experiment.held_out_problems:
        options = {"max_new_tokens": len(answer), "do_sample": False, "eos_token_id": end, "pad_token_id": end}
        output = model.eval().generate(torch.tensor([question]), **options)
        right += output[0, len(question) :].tolist() == answer
    with torch.no_grad():
        metrics = experiment.evaluate(model)
    experiment.held_out_problems = held_out
    assert 0 < right < 8 and metrics["exact match"] == right / 8


def test_bytes_and_tokens_of_real_text(data):
    experiment = RealText(data, data, 0.002)
    assert experiment.train_ids.shape[1] == experiment.length
    model = experiment.build("hybrid").eval()
    with torch.no_grad():
        metrics = experiment.evaluate(model)
        losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in experiment.validation_ids]
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    tokenizer, size = experiment.tokenizer, 0
    for row in experiment.validation_ids[:, 1:].tolist():
        text = tokenizer.decode(row, clean_up_tokenization_spaces=False).replace(tokenizer.eos_token, "\n")
        size += len(text.encode())
    per_byte = metrics["loss"] * experiment.validation_ids[:, 1:].numel() / size
    assert metrics["nats per byte"] == pytest.approx(per_byte, rel=1e-6)


def test_losses_are_those_of_the_next_tokens(word_problem_experiment):
    model = word_problem_experiment.build("2-simplicial").eval()
    ids = torch.randint(300, (2, 7), generator=generator())
    with torch.no_grad():
        losses, is_likeliest = token_losses(model, ids)
        chances = model(input_ids=ids).logits.double().softmax(-1)
    for row in range(2):
        for place in range(6):
            chance = chances[row, place]
            assert float(losses[row, place]) == pytest.approx(-float(chance[ids[row, place + 1]].log()), rel=1e-5)
            assert bool(is_likeliest[row, place]) == (int(chance.argmax()) == int(ids[row, place + 1]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_models_have_equal_numbers_of_parameters_and_attention_of_their_name(name, data):
    experiment = EXPERIMENTS[name](data, data, 0.002)
    models = {model: experiment.build(model) for model in experiment.models}
    sizes = [model.num_parameters() for model in models.values()]
    assert max(sizes) / min(sizes) < 1.02
    kinds = {name: model.config.attention_types for name, model in models.items()}
    assert {name: layers for name, layers in kinds.items() if EQUAL_TIME not in name} == {
        "dot product": ["full", "full"],
        "2-simplicial": ["simplicial", "simplicial"],
        "hybrid": ["full", "simplicial"],
    }
    assert all(kinds[name] == kinds[name.removesuffix(EQUAL_TIME)] for name in kinds)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_is_reported(name, data, tmp_path):
    words = ["--data_dir", str(data), "--output_dir", str(tmp_path / "runs"), "--report", str(tmp_path / "report.md")]
    main([*words, "--experiments", name, "--seeds", "1", "--scale", "0.002"])
    models = list(EXPERIMENTS[name].models)
    runs = [json.loads(line) for line in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()]
    assert [run["model"] for run in runs] == models
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# 2-simplicial attention\n") and EXPERIMENTS[name].title in report
    assert re.findall(r"^\| ([\w, -]+) \| [\d,]+ \| 1 \| \d+ \|", report, flags=re.MULTILINE) == models


def test_all_models_see_the_same_batches_and_seeds_differ(data):
    for experiment in (each(data, data, 0.002) for each in EXPERIMENTS.values()):
        first, same, other = (next(experiment.batches(seed))["input_ids"] for seed in (0, 0, 1))
        assert torch.equal(first, same) and not (first.shape == other.shape and torch.equal(first, other))


def test_the_report_states_the_claims_about_gsm8k():
    text = WordProblems.description
    assert all(figure in text for figure in ("12.8 %", "+0.79 %", "-1.51 %", "-2.27 %", "2507.02754"))
