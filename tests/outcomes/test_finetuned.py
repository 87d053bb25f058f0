"""``run`` with outcomes finetuned, on a language model whose responses can all be listed: the truth is known."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.files.sampled import read_sampled_game, sampled_receipt
from rlhf_game.files.workspace import SUMS, Workspace
from rlhf_game.mechanism.sampled.sampled_payments import sampled_payments
from rlhf_game.mechanism.sampled.sampled_settlement import ByFormula, SampledGame, least_cap, settle_samples
from rlhf_game.mechanism.spaces.menu import Menu
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.finetuned import finetuned_training
from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import log_probabilities
from rlhf_game.training_backends.trainers.policies import load_policy
from tests.cli.runner import run as command
from tests.outcomes.forged import differences_after
from tests.outcomes.listed import GOOD, LONGEST, QUICK, SIZES, STRENGTH, Truth, Write, document, finished
from tests.training_backends.trainers.policies.enumerable import PROMPT, responses

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = ("config.json", "cost.json", "game.json", "receipt.json", "samples.parquet", "scores.parquet")


@pytest.fixture(scope="module")
def good(place: Path) -> FinetunedRun:
    """A training that is nearly done, and one without each group."""
    (place / "good.json").write_text(json.dumps(document(GOOD)))
    return finished(place / "good.json", place / "good")


@pytest.fixture(scope="module")
def truth(place: Path) -> Truth:
    return Truth(load_language_model(str(place / "model")))


def holds(interval: dict[str, float], value: float) -> bool:
    return interval["low"] - 1e-9 <= value <= interval["high"] + 1e-9


def test_a_run_trains_charges_certifies_and_verifies(good: FinetunedRun, place: Path) -> None:
    folder = good.folder
    assert sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".") == sorted(FILES)
    receipt = good.receipt
    assert receipt["policy"]["folder"] == "policy/model"
    assert receipt["payments_from"] == "leave_one_out"
    assert receipt["cost"]["trainings"] == 3
    assert receipt["cost"]["tokens"] > 3 * 60 * 128
    for group in receipt["groups"]:
        assert group["utility"]["estimate"] == pytest.approx(
            group["size"] * group["value"]["estimate"] - group["payment"]["estimate"]
        )
    seconds = json.loads((folder / "cost.json").read_text())["trainings"]
    assert [one["of"] for one in seconds] == ["final", "without first", "without second"]
    assert all(one["seconds"] > 0 for one in seconds)
    result = command("verify", folder / "receipt.json", folder / "game.json")
    assert (result.code, result.err) == (0, "")
    again = command("run", place / "good.json", "-o", folder)
    assert again.code == 0
    assert "no lie gains more than" in again.out
    assert "leave_one_out" in again.out


def test_the_draws_have_exact_probabilities_under_both(good: FinetunedRun, truth: Truth, place: Path) -> None:
    table = parquet.read_table(good.folder / "samples.parquet").to_pydict()
    assert {name for name in table if name.startswith("log_")} == {"log_probability", "log_reference"}
    final, reference = truth.of(load_policy(good.folder / "policy")), truth.q
    at = {ids: k for k, ids in enumerate(responses(LONGEST))}
    counts = np.zeros(len(at))
    for k, name in enumerate(table["policy"]):
        place_of = at[tuple(table["token_ids"][k])]
        assert table["log_reference"][k] == pytest.approx(np.log(reference[place_of]), abs=1e-4)
        if name in ("reference", "final"):
            own = reference if name == "reference" else final
            assert table["log_probability"][k] == pytest.approx(np.log(own[place_of]), abs=1e-4)
        counts[place_of] += name == "final"
    assert counts.sum() == GOOD["samples"] + GOOD["choosing"]
    assert np.abs(counts / counts.sum() - final).sum() < 0.1


def test_every_number_of_the_receipt_holds_the_truth_over_all_responses(good: FinetunedRun, truth: Truth) -> None:
    p = truth.of(load_policy(good.folder / "policy"))
    alone = [truth.of(load_policy(Path(folder))) for folder in cached(good)]
    others = [np.array([0.0, 1.0]), np.array([2.0, 0.0])]
    receipt = good.receipt
    gap = truth.best(SIZES) - truth.welfare(p, SIZES)
    assert 0 <= gap < 0.02  # the training was good
    assert holds(receipt["certificate"]["gap"], gap)
    assert holds(receipt["divergence"], float(p @ np.log(p / truth.q)))
    assert holds(receipt["affine_social_welfare"], truth.welfare(p, SIZES))
    for i, group in enumerate(receipt["groups"]):
        value, paid = float(truth.rewards[i] @ p), truth.payments(p)[i]
        charged = truth.welfare(alone[i], others[i]) - truth.welfare(p, others[i])
        assert holds(group["value"], value)
        assert holds(group["affine_payment"], paid)
        assert holds(group["payment"], charged)
        assert holds(group["utility"], SIZES[i] * value - charged)
        assert charged == pytest.approx(paid, abs=0.02)  # the others' training was good as well
        assert group["payment"]["estimate"] == pytest.approx(truth.payments(truth.optimum(SIZES))[i], abs=0.08)
        assert group["regret_bound"] == pytest.approx(receipt["certificate"]["gap"]["high"])


def cached(done: FinetunedRun) -> list[str]:
    """The folders of the leave-one-out policies, which are there already."""
    configuration = read_config(done.folder.parent / "good.json")
    spec = finetuned_training.spec_of(configuration)
    return [finetuned_training.make(task).folder for task in finetuned_training.further_tasks(configuration, spec)]


def test_responses_are_priced_by_the_models_with_and_without_each_group(
    good: FinetunedRun, truth: Truth, place: Path, tmp_path: Path
) -> None:
    """The price is strength log p / p_-i of the tokens that were drawn; its mean is nearly the bill."""
    p = truth.of(load_policy(good.folder / "policy"))
    alone = [truth.of(load_policy(Path(folder))) for folder in cached(good)]
    table = parquet.read_table(good.folder / "samples.parquet").to_pydict()
    at = {ids: k for k, ids in enumerate(responses(LONGEST))}
    drawn: dict[str, int] = {}
    for policy, text, ids in zip(table["policy"], table["text"], table["token_ids"], strict=True):
        if policy == "final":
            drawn.setdefault(text, at[tuple(ids)])
    rows = [(PROMPT, text) for text in drawn] + [("who?", "a"), (PROMPT, "a b c d")]
    log = tmp_path / "served.jsonl"
    log.write_text("".join(json.dumps({"prompt": asked, "response": said}) + "\n" for asked, said in rows))
    arguments = ("meter", good.folder, "--responses", log, "--config", place / "good.json")
    found = json.loads(command(*arguments, "--json").out)
    assert found["unknown"] == [len(drawn), len(drawn) + 1]
    for i, group in enumerate(found["groups"]):
        prices = STRENGTH * np.log(p / alone[i])
        assert group["responses"][:-2] == pytest.approx(prices[list(drawn.values())], abs=1e-4)
        expected, mean = group["expected"], float(p @ prices)
        assert expected["estimate"] / len(drawn) == pytest.approx(mean, abs=4 * float(prices.std()) / 2000**0.5)
        assert mean == pytest.approx(truth.payments(p)[i], abs=0.02)
        deviation = np.sqrt(p @ (prices - mean) ** 2 * len(drawn))
        assert expected["high"] - expected["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert "KL(policy || policy without the group)" in command(*arguments).out
    swapped = tmp_path / "swapped"
    shutil.copytree(good.folder, swapped)
    cost = json.loads((swapped / "cost.json").read_text())
    final, first, second = (one["folder"] for one in cost["trainings"])
    for folders, said in (((final, second, first), "the weights that this run drew from"), ((first,) * 3, "nowhere")):
        for one, folder in zip(cost["trainings"], folders, strict=True):
            one["folder"] = "nowhere" if said == "nowhere" else folder
        (swapped / "cost.json").write_text(json.dumps(cost))
        (swapped / SUMS).unlink()
        Workspace(swapped).adopt(*Workspace(swapped).files())
        wrong = command("meter", swapped, "--responses", log, "--config", place / "good.json")
        assert (wrong.code, wrong.out) == (2, "")
        assert (said if said != "nowhere" else "must name the folder of the policy 'final'") in wrong.err
    game = (swapped / "game.json").read_text()
    (swapped / "game.json").write_text(game.replace('"payments_from": "leave_one_out"', '"payments_from": "samples"'))
    wrong = command("meter", swapped, "--responses", log, "--config", place / "good.json")
    assert (wrong.code, "payments_from: must be leave_one_out" in wrong.err) == (2, True)
    (place / "other.json").write_text(json.dumps(document(GOOD | {"steps": 61})))
    wrong = command("meter", good.folder, "--responses", log, "--config", place / "other.json")
    assert (wrong.code, "must be what" in wrong.err) == (2, True)


def test_one_training_gives_all_payments_within_their_intervals(good: FinetunedRun, truth: Truth) -> None:
    """Draws of the policy that RLOO trained, 200 times: the payments of the true optimum are in the intervals."""
    p, best = truth.of(load_policy(good.folder / "policy")), truth.payments(truth.optimum(SIZES))
    game = SampledGame(SIZES, np.ones(2), STRENGTH, 0.9, least_cap(SIZES, STRENGTH))
    rng, misses, numbers, unbracketed = np.random.default_rng(8), np.zeros(2), [], []
    for _ in range(200):
        reference, delivered = truth.samples(truth.q, 500, rng), truth.samples(p, 500, rng)
        settled = settle_samples(game, delivered, reference, ByFormula(reference))
        misses += (best < settled.payments.low) | (best > settled.payments.high)
        numbers.append(settled.payments.value)
        unbracketed.append(sampled_payments(delivered.rewards, game.shares, STRENGTH).payments.value)
    assert (misses <= 20).all()
    formula = SIZES * (truth.rewards @ p) + STRENGTH * np.log(np.exp(-SIZES[:, None] * truth.rewards / STRENGTH) @ p)
    assert np.mean(unbracketed, axis=0) == pytest.approx(formula, rel=0.03)
    assert np.mean(numbers, axis=0) == pytest.approx(formula, rel=0.08)  # the bracket moves it towards the exact one
    assert (np.abs(np.mean(numbers, axis=0) - truth.payments(p)) <= np.abs(formula - truth.payments(p)) + 2e-3).all()
    assert formula == pytest.approx(best, rel=0.15)  # what the training has left
    untrained = STRENGTH * np.log(np.exp(-SIZES[:, None] * truth.rewards / STRENGTH) @ truth.q)
    assert np.abs((SIZES * (truth.rewards @ truth.q) + untrained) / best - 1).min() > 0.2  # of no training: not these


def test_the_same_samples_settle_by_formula_and_by_reference(good: FinetunedRun, truth: Truth) -> None:
    best = truth.payments(truth.optimum(SIZES))
    for rule in ("samples", "reference"):
        fields = good.game.fields.model_copy(update={"payments_from": rule})
        groups = sampled_receipt(replace(good.game, fields=fields)).model_dump()["groups"]
        assert [group["payment"]["estimate"] for group in groups] == pytest.approx(best, abs=0.08)
        assert all(holds(group["payment"], paid) for group, paid in zip(groups, best, strict=True))
        for group in groups:
            assert ("asymptotic_payment" in group) == (rule == "samples")
            if rule == "samples":
                wide, short = (group[key]["high"] - group[key]["low"] for key in ("payment", "asymptotic_payment"))
                assert 0 < short < wide
                assert 1 <= group["effective_size"] <= GOOD["samples"]


@pytest.mark.parametrize("rule", ["samples", pytest.param("reference", marks=pytest.mark.slow)])
def test_no_lie_gains_more_than_the_certificate_allows(tuned: Write, truth: Truth, tmp_path: Path, rule: str) -> None:
    """Policies trained too little on lies about reward and size; the liar's utility at its true reward."""
    few = {"samples": 1500, "steps": 6, "learning_rate": 1e-2, "payments_from": rule, "cap": 16.0}
    honest = finished(tuned(few), tmp_path / "honest")
    liar, bound = 0, honest.receipt["groups"][0]["regret_bound"]

    def utility(done: FinetunedRun) -> float:
        p = truth.of(load_policy(done.folder / "policy"))
        return float(SIZES[liar] * truth.rewards[liar] @ p - done.receipt["groups"][liar]["payment"]["estimate"])

    truthful = utility(honest)
    worth = document(QUICK)["groups"][liar]["reward"]["table"]["values"]
    middle = float(np.median(list(worth.values())))
    polarised = {text: float(value > middle) for text, value in worth.items()}
    gains = []
    for size, values in ((2, polarised), (4, worth), (4, polarised)):
        groups = document(QUICK)["groups"]
        groups[liar] |= {"size": size, "reward": {"table": {"values": values}}}
        gains.append(utility(finished(tuned(few, groups=groups), tmp_path / f"{size} {values is worth}")) - truthful)
    assert max(gains) <= bound
    assert honest.receipt["certificate"]["tightness"] < 1


def test_a_changed_receipt_draw_score_or_policy_is_found(tuned: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(tuned(), out)
    check = ("verify", out / "receipt.json", out / "game.json")
    assert command(*check).code == 0
    written = (out / "receipt.json").read_bytes()
    receipt = json.loads(written)
    for change, said in (
        ({"groups": [receipt["groups"][0], receipt["groups"][1] | {"payment": 0.5}]}, "groups[1].payment"),
        ({"certificate": receipt["certificate"] | {"regret_bound": 0.0}}, "certificate.regret_bound"),
        ({"payments_label": "free"}, "payments_label"),
    ):
        (out / "receipt.json").write_text(json.dumps(receipt | change))
        result = command(*check)
        assert result.code == 3
        assert result.out.startswith(said)
    (out / "receipt.json").write_text(json.dumps(receipt))
    for name in ("samples.parquet", "scores.parquet", "policy/model/model.safetensors"):
        whole = (out / name).read_bytes()
        if name.endswith(".parquet"):
            table = parquet.read_table(out / name)
            parquet.write_table(table.replace_schema_metadata({}), out / name)
        else:
            (out / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        result = command(*check)
        assert result.code == 3, name
        assert "sha256" in result.out
        (out / name).write_bytes(whole)
    assert command(*check).code == 0  # the same receipt in other bytes, which an audit of the folder does not take
    for content, said in ((None, "receipt.json: must be as it was written"), (written, "certificate in the receipt")):
        if content is not None:
            (out / "receipt.json").write_bytes(content)
        audited = command("audit", out)
        assert audited.code == 2
        assert said in audited.err


@pytest.mark.parametrize(
    ("change", "said"),
    [({"level": 0.5}, "level"), ({"cap": 50.0}, "cap"), ({"strength": 3.0}, "strength"), ({"weights": {}}, "weights")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_game_that_is_not_its_configurations_is_found_though_receipt_and_seal_fit_it(
    good: FinetunedRun, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    found = differences_after(
        good.folder, tmp_path / "out", change, lambda game: sampled_receipt(read_sampled_game(game))
    )
    assert f"game.json: {said}" in found


def test_soups_are_a_menu_that_the_menu_space_settles(tuned: Write, place: Path, tmp_path: Path) -> None:
    done = finished(tuned({**GOOD, "payments_from": "soups", "grid": 2, "steps": 15, "samples": 200}), tmp_path / "out")
    names, draws = done.game.fields.policies, done.game.draws
    assert names == ["reference", "soup 1 0", "soup 0.5 0.5", "soup 0 1"]
    divergences = [max(0.0, float(draws[name].log_ratios.mean())) for name in names]
    values = [np.array([draws[name].rewards[i].mean() for name in names]) for i in range(2)]
    menu = Menu(divergences, STRENGTH).maximize(SIZES, values)
    assert done.receipt["delivered"] == names[menu.chosen] != "reference"
    paid = [group["payment"]["estimate"] for group in done.receipt["groups"]]
    assert paid == pytest.approx(menu.externalities(SIZES, values), abs=1e-9)
    assert done.receipt["certificate"]["regret_bound"] is None
    assert "not strictly DSIC" in done.receipt["payments_label"]
    assert command("verify", done.folder / "receipt.json", done.folder / "game.json").code == 0
    table = parquet.read_table(done.folder / "samples.parquet").to_pydict()
    delivered = load_language_model(str(done.folder / "policy/model"))
    rows = [k for k, name in enumerate(table["policy"]) if name == done.receipt["delivered"]][:10]
    asked = [delivered.encode_prompt(PROMPT)] * len(rows)
    found = log_probabilities(delivered, asked, [table["token_ids"][k] for k in rows])
    assert found == pytest.approx([table["log_probability"][k] for k in rows], abs=1e-4)


def test_a_bound_needs_draws_after_the_reports_and_a_cap_that_no_report_moves(tuned: Write, tmp_path: Path) -> None:
    declared = {"payments_from": "reference", "size_limit": 2}
    for name, outcomes, changes, cap, is_bounded in (
        ("fresh", declared, {}, ("size_limit", 11.0), True),
        ("known", declared, {"settlement_seed": 5}, ("size_limit", 11.0), False),
        ("moved", {"payments_from": "reference"}, {}, ("sizes", 8.5), False),
    ):
        done = finished(tuned(outcomes, **changes), tmp_path / name)
        receipt = done.receipt
        assert (receipt["cap_from"], done.game.fields.cap) == (cap[0], pytest.approx(cap[1]))
        assert (receipt["certificate"]["regret_bound"] is not None) == is_bounded
        assert all((group["regret_bound"] is not None) == is_bounded for group in receipt["groups"])
        assert receipt["seed_from"] == ("config" if name == "known" else "provider")
        assert receipt["settlement_seed"] == 5  # of the tests; nobody else knows it beforehand
        assert command("verify", done.folder).code == 0
        said = command("report", done.folder)
        assert said.code == 0
    samples = [(tmp_path / name / "samples.parquet") for name in ("fresh", "known")]
    first, second = (parquet.read_table(path).to_pydict() for path in samples)
    assert first == second  # the seed alone decides the draws
    with pytest.raises(InputError, match="outcomes.size_limit: must be at least the size of every group, found 2"):
        read_config(tuned({"size_limit": 1}))


@pytest.mark.parametrize(
    ("outcomes", "policies", "said"),
    [
        ({"payments_from": "checkpoints", "save_steps": 2},
         ["reference", "checkpoint 2", "final"], "not strictly DSIC"),
        ({"payments_from": "early_stopped", "stop_after": 2, "cap": 8.5},
         ["reference", "final", "without first", "without second"], "payments can be negative"),
    ],
)  # fmt: skip
def test_the_heuristics_say_what_they_are(
    tuned: Write, tmp_path: Path, outcomes: dict[str, Any], policies: list[str], said: str
) -> None:
    done = finished(tuned(outcomes), tmp_path / "out")
    assert done.game.fields.policies == policies
    assert said in done.receipt["payments_label"]
    is_bounded = done.receipt["certificate"]["regret_bound"] is not None
    assert is_bounded == (outcomes["payments_from"] == "early_stopped")
    if outcomes["payments_from"] == "checkpoints":
        assert all(group["payment"]["estimate"] >= 0 for group in done.receipt["groups"])


def test_a_trainer_that_is_not_the_mechanisms_is_not_paid_for_unless_the_gap_is_allowed(
    tuned: Write, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="outcomes.trainer: must be one whose optimum is the mechanism's"):
        run(read_config(tuned({"trainer": "grpo"})), tmp_path / "no")
    assert not (tmp_path / "no").exists()
    done = finished(tuned({"trainer": "grpo", "allow_gap": True}), tmp_path / "yes")
    assert done.receipt["trainer"]["is_faithful"] is False
    assert done.receipt["certificate"]["gap"]["high"] > 0
    assert (
        "is not the mechanism's" in command("run", tuned({"trainer": "grpo", "allow_gap": True}), "-o", done.folder).out
    )
    free = finished(tuned({"trainer": "grpo"}, payment="none"), tmp_path / "free")
    assert [group["payment"] for group in free.receipt["groups"]] == [0.0, 0.0]


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_trains_smollm2_for_two_real_rewards(tmp_path: Path) -> None:
    started = time.process_time()
    result = command("run", EXAMPLES / "finetuned.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err.count("\n"), "prove nothing" in result.err) == (
        0,
        1,
        True,
    )  # too few draws, it says
    assert time.process_time() - started < 120  # seconds of the processor: what else runs here does not count
    receipt = json.loads(result.out)
    assert receipt["trainer"]["is_faithful"]
    assert receipt["certificate"]["tightness"] > 0
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    game = read_sampled_game(tmp_path / "out/game.json")
    assert game.draws["final"].rewards.shape == (2, 2, 24)
