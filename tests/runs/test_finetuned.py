"""``run`` with outcomes finetuned, on a language model whose responses can all be listed: the truth is known."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.files.sampled import read_sampled_game, receipt_document
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled_settlement import ByFormula, PolicySamples, SampledGame, least_cap, settle_samples
from rlhf_game.mechanism.spaces.menu import Menu
from rlhf_game.runs import finetuned_draws, finetuned_training, read_config, run
from rlhf_game.runs.devices import DeviceMap, on_devices
from rlhf_game.runs.directory import Part
from rlhf_game.runs.finetuned import FinetunedRun
from rlhf_game.training_backends.models import LanguageModel, load_language_model
from rlhf_game.training_backends.policies import load_policy
from rlhf_game.training_backends.sampling import log_probabilities
from tests.cli.runner import run as command
from tests.runs.visible import visible_device
from tests.training_backends.policies.enumerable import PROMPT, REWARDS, responses, save_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = ("config.json", "cost.json", "game.json", "receipt.json", "samples.parquet", "scores.parquet")
COMPARED = ("game.json", "receipt.json", "samples.parquet", "scores.parquet")
LONGEST, STRENGTH = 2, 0.4
SIZES = np.array([2.0, 1.0])
QUICK: dict[str, Any] = {
    "kind": "finetuned", "steps": 4, "learning_rate": 3e-3, "batch_size": 32, "num_generations": 32,
    "max_new_tokens": LONGEST, "lora": "full", "save_steps": 1, "samples": 40,
}  # fmt: skip
GOOD = QUICK | {
    "steps": 60, "learning_rate": 1e-2, "batch_size": 128, "num_generations": 128, "save_steps": 60, "samples": 2000,
    "trl": {"adam_beta2": 0.95}, "payments_from": "leave_one_out",
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Iterator[Path]:
    """A folder with the model, and a cache of its own."""
    folder = tmp_path_factory.mktemp("finetuned")
    save_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_GAME_CACHE", str(folder / "cache"))
        yield folder


def document(outcomes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    texts = sorted({" ".join(words) for words in every_text()})
    groups = [
        {"name": name, "size": int(size), "reward": {"table": {"values": {t: reward.worth(t) for t in texts}}}}
        for (name, reward), size in zip(REWARDS.items(), SIZES, strict=True)
    ]
    return {
        "model": "model", "prompts": [PROMPT], "outcomes": outcomes, "strength": STRENGTH, "groups": groups, "seed": 5,
        **changes,
    }  # fmt: skip


def every_text() -> list[tuple[str, ...]]:
    words = ("a", "b", "c", "d")
    return [(), *((one,) for one in words), *((one, two) for one in words for two in words)]


@pytest.fixture
def write(place: Path) -> Write:
    def write(outcomes: dict[str, Any] | None = None, name: str = "config.json", **changes: Any) -> Path:
        (place / name).write_text(json.dumps(document(QUICK | (outcomes or {}), **changes)))
        return place / name

    return write


def finished(config: Path, out: Path) -> FinetunedRun:
    done = run(read_config(config), out)
    assert isinstance(done, FinetunedRun)
    return done


@pytest.fixture(scope="module")
def good(place: Path) -> FinetunedRun:
    """A training that is nearly done, and one without each group."""
    (place / "good.json").write_text(json.dumps(document(GOOD)))
    return finished(place / "good.json", place / "good")


class Truth:
    """Everything about a run's policies, by listing all responses. p, q, s: [m]; rewards: [n, m]."""

    def __init__(self, reference: LanguageModel) -> None:
        self.q = self.of(reference)
        texts = [reference.decode(list(ids)) for ids in responses(LONGEST)]
        self.rewards = np.array([[reward.worth(text) for text in texts] for reward in REWARDS.values()])

    def of(self, model: LanguageModel) -> Array:
        listed = responses(LONGEST)
        found = log_probabilities(model, [model.encode_prompt(PROMPT)] * len(listed), listed, batch_size=1000)
        return np.asarray(np.exp(found - np.logaddexp.reduce(found)))

    def best(self, shares: Array) -> float:
        return float(STRENGTH * np.log(self.q @ np.exp(shares @ self.rewards / STRENGTH)))

    def optimum(self, shares: Array) -> Array:
        p = self.q * np.exp(shares @ self.rewards / STRENGTH)
        return np.asarray(p / p.sum())

    def welfare(self, p: Array, shares: Array) -> float:
        return float(p @ (shares @ self.rewards - STRENGTH * np.log(p / self.q)))

    def payments(self, p: Array) -> Array:
        """max ASW_-i - ASW_-i(p): [n]."""
        others = [np.where(np.arange(2) == i, 0.0, SIZES) for i in range(2)]
        return np.array([self.best(o) - self.welfare(p, o) for o in others])

    def samples(self, p: Array, count: int, rng: np.random.Generator) -> PolicySamples:
        picked = rng.choice(p.size, size=count, p=p)
        return PolicySamples(self.rewards[:, None, picked], np.log(p / self.q)[None, picked])


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
    final, reference = truth.of(load_policy(good.folder / "policy")), truth.q
    at = {ids: k for k, ids in enumerate(responses(LONGEST))}
    counts = np.zeros(len(at))
    for k, name in enumerate(table["policy"]):
        place_of = at[tuple(table["token_ids"][k])]
        assert table["log_reference"][k] == pytest.approx(np.log(reference[place_of]), abs=1e-4)
        if name in ("reference", "final"):
            assert table["log_final"][k] == pytest.approx(np.log(final[place_of]), abs=1e-4)
        counts[place_of] += name == "final"
    assert counts.sum() == GOOD["samples"]
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


def test_one_training_gives_all_payments_within_their_intervals(good: FinetunedRun, truth: Truth) -> None:
    """Draws of the policy that RLOO trained, 200 times: the payments of the true optimum are in the intervals."""
    p, best = truth.of(load_policy(good.folder / "policy")), truth.payments(truth.optimum(SIZES))
    game = SampledGame(SIZES, np.ones(2), STRENGTH, 0.9, least_cap(SIZES, STRENGTH))
    rng, misses, numbers = np.random.default_rng(8), np.zeros(2), []
    for _ in range(200):
        reference = truth.samples(truth.q, 500, rng)
        settled = settle_samples(game, truth.samples(p, 500, rng), reference, ByFormula(reference))
        misses += (best < settled.payments.low) | (best > settled.payments.high)
        numbers.append(settled.payments.value)
    assert (misses <= 20).all()
    formula = SIZES * (truth.rewards @ p) + STRENGTH * np.log(np.exp(-SIZES[:, None] * truth.rewards / STRENGTH) @ p)
    assert np.mean(numbers, axis=0) == pytest.approx(formula, rel=0.03)
    assert formula == pytest.approx(best, rel=0.15)  # what the training has left
    untrained = STRENGTH * np.log(np.exp(-SIZES[:, None] * truth.rewards / STRENGTH) @ truth.q)
    assert np.abs((SIZES * (truth.rewards @ truth.q) + untrained) / best - 1).max() > 0.3  # of no training: not these


def test_the_same_samples_settle_by_formula_and_by_reference(good: FinetunedRun, truth: Truth) -> None:
    best = truth.payments(truth.optimum(SIZES))
    for rule in ("samples", "reference"):
        fields = good.game.fields.model_copy(update={"payments_from": rule})
        groups = receipt_document(replace(good.game, fields=fields))["groups"]
        assert [group["payment"]["estimate"] for group in groups] == pytest.approx(best, abs=0.08)
        assert all(holds(group["payment"], paid) for group, paid in zip(groups, best, strict=True))


@pytest.mark.parametrize("rule", ["samples", "reference"])
def test_no_lie_gains_more_than_the_certificate_allows(write: Write, truth: Truth, tmp_path: Path, rule: str) -> None:
    """Policies trained too little on lies about reward and size; the liar's utility at its true reward."""
    few = {"samples": 1500, "steps": 6, "learning_rate": 1e-2, "payments_from": rule, "cap": 16.0}
    honest = finished(write(few), tmp_path / "honest")
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
        gains.append(utility(finished(write(few, groups=groups), tmp_path / f"{size} {values is worth}")) - truthful)
    assert max(gains) <= bound
    assert honest.receipt["certificate"]["tightness"] < 1


def test_a_changed_receipt_draw_score_or_policy_is_found(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(write(), out)
    check = ("verify", out / "receipt.json", out / "game.json")
    assert command(*check).code == 0
    receipt = json.loads((out / "receipt.json").read_text())
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
    assert command(*check).code == 0
    audited = command("audit", out)
    assert audited.code == 2
    assert "certificate in the receipt" in audited.err


def test_soups_are_a_menu_that_the_menu_space_settles(write: Write, place: Path, tmp_path: Path) -> None:
    done = finished(write({**GOOD, "payments_from": "soups", "grid": 2, "steps": 15, "samples": 200}), tmp_path / "out")
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


@pytest.mark.parametrize(
    ("outcomes", "policies", "said"),
    [
        ({"payments_from": "checkpoints", "save_steps": 2},
         ["reference", "checkpoint 2", "final"], "not strictly DSIC"),
        ({"payments_from": "early_stopped", "stop_after": 2},
         ["reference", "final", "without first", "without second"], "payments can be negative"),
    ],
)  # fmt: skip
def test_the_heuristics_say_what_they_are(
    write: Write, tmp_path: Path, outcomes: dict[str, Any], policies: list[str], said: str
) -> None:
    done = finished(write(outcomes), tmp_path / "out")
    assert done.game.fields.policies == policies
    assert said in done.receipt["payments_label"]
    is_bounded = done.receipt["certificate"]["regret_bound"] is not None
    assert is_bounded == (outcomes["payments_from"] == "early_stopped")
    if outcomes["payments_from"] == "checkpoints":
        assert all(group["payment"]["estimate"] >= 0 for group in done.receipt["groups"])


def test_a_trainer_that_is_not_the_mechanisms_is_not_paid_for_unless_the_gap_is_allowed(
    write: Write, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="outcomes.trainer: must be one whose optimum is the mechanism's"):
        run(read_config(write({"trainer": "grpo"})), tmp_path / "no")
    assert not (tmp_path / "no").exists()
    done = finished(write({"trainer": "grpo", "allow_gap": True}), tmp_path / "yes")
    assert done.receipt["trainer"]["is_faithful"] is False
    assert done.receipt["certificate"]["gap"]["high"] > 0
    assert (
        "is not the mechanism's" in command("run", write({"trainer": "grpo", "allow_gap": True}), "-o", done.folder).out
    )
    free = finished(write({"trainer": "grpo"}, payment="none"), tmp_path / "free")
    assert [group["payment"] for group in free.receipt["groups"]] == [0.0, 0.0]


def test_what_a_group_says_does_not_train_the_policy_without_it_again(write: Write, tmp_path: Path) -> None:
    told: list[str] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("train"):
            told.append(what.partition("(")[2].rstrip(")"))

    run(read_config(write({"payments_from": "leave_one_out", "steps": 3})), tmp_path / "one", watch)
    assert set(told) == {"final", "without first", "without second"}
    told.clear()
    groups = document(QUICK)["groups"]
    groups[0] |= {"size": 5}
    run(read_config(write({"payments_from": "leave_one_out", "steps": 3}, groups=groups)), tmp_path / "two", watch)
    assert set(told) == {"final", "without second"}  # the second group's absence leaves the first, which changed
    texts = groups[1]["reward"]["table"]["values"]
    groups[1] |= {"reward": {"table": {"values": {text: 1 - value for text, value in texts.items()}}}}
    told.clear()
    run(read_config(write({"payments_from": "leave_one_out", "steps": 3}, groups=groups)), tmp_path / "three", watch)
    assert set(told) == {"final", "without first"}


def test_an_interrupted_run_goes_on_with_the_same_receipt(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write()
    finished(config, tmp_path / "whole")
    kept = Part.write
    for stop in ("draws-0000-000000.json", "final-of-reference-000000.json", "draws-0001", "scores-000001.json"):

        def interrupted(part: Part, value: Any, stop: str = stop) -> None:
            if part.path.name.startswith(stop):
                raise KeyboardInterrupt
            kept(part, value)

        with monkeypatch.context() as patch:
            patch.setattr(Part, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(read_config(config), tmp_path / "broken")
    told = []
    run(read_config(config), tmp_path / "broken", lambda what, done, total: told.append(what))
    assert not any(what.startswith("train") for what in told)  # it was done before
    for name in COMPARED:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    weights = Path("policy/model/model.safetensors")
    (tmp_path / "broken" / weights).write_bytes(b"others")
    (tmp_path / "broken/receipt.json").unlink()
    with pytest.raises(InputError, match="must hold the weights that this run drew from"):
        run(read_config(config), tmp_path / "broken")


def test_kill_9_in_the_middle_of_the_training_and_a_rerun_give_the_same_receipt(write: Write, tmp_path: Path) -> None:
    config = write({"steps": 40})
    finished(config, tmp_path / "whole")
    log = tmp_path / "broken/policy/checkpoints"
    program = (sys.executable, "-m", "rlhf_game", "run", str(config), "-o", str(tmp_path / "broken"))
    with subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True) as process:
        while process.poll() is None and len(list(log.glob("checkpoint-*/whole.json"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "broken/policy/policy.json").exists()
    told: list[str] = []
    run(read_config(config), tmp_path / "broken", lambda what, done, total: told.append(what))
    assert any(what.startswith("resume from checkpoint-") for what in told)
    for name in COMPARED:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": {"payments_from": "early_stopped"}}, "outcomes.stop_after: must be given with payments_from"),
        ({"outcomes": {"stop_after": 3}}, "outcomes.stop_after: must be with payments_from early_stopped only"),
        ({"outcomes": {"num_generations": 5}}, "outcomes.num_generations: must divide the 32 responses of a step"),
        ({"outcomes": {"ppo": {}}}, "outcomes.ppo: must be with trainer ppo only"),
        ({"outcomes": {"trainer": "dpo"}}, "outcomes.trainer: must be 'rloo', 'grpo', 'ppo' or 'best_of_n'"),
        ({"outcomes": {"samples": 1}}, "outcomes.samples: must be greater than or equal to 2, found 1"),
        ({"regularizer": "l2"}, "regularizer: must be kl with outcomes finetuned, found l2"),
        ({"normalization": "max"}, "normalization: must be none with outcomes finetuned, found max"),
        ({"groups": [{"name": "a", "reward": "clean", "calibration": "rank"}]}, "must not be rank with outcomes fine"),
    ],
)
def test_a_configuration_without_meaning_is_refused(write: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(write(changes.pop("outcomes", None), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": {"cap": 1.0}}, "outcomes.cap: must be at least 8.5"),
        ({"model": {"name": "model", "dtype": "float16"}}, "model.dtype: must be float32 or bfloat16"),
        ({"model": {"name": "model", "device": "meta"}}, "model.device: must be auto, cpu or cuda"),
        ({"outcomes": {"trl": {"beta": 0.1}}}, "trl.beta: must be one of"),
    ],
)
def test_what_cannot_be_trained_or_bounded_is_refused_before_anything_is_done(
    write: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = write(changes.pop("outcomes", None), **changes)
    with pytest.raises(InputError, match=message):
        run(read_config(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_are_spread_over_devices_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(DeviceMap(("3", "7"))(visible_device, ["a", "b", "c", "d"]))
    assert [task for task, _ in found] == ["a", "b", "c", "d"]
    assert {device for _, device in found} <= {"3", "7"}
    assert on_devices() is map  # there is no second device here
    monkeypatch.setattr("rlhf_game.training_backends.finetuned.devices", lambda: ("0", "1"))
    assert on_devices() == DeviceMap(("0", "1"))


def test_trainings_that_do_not_need_each_other_go_through_the_map(write: Write, tmp_path: Path) -> None:
    configuration = read_config(write({"payments_from": "leave_one_out"}))
    spec = finetuned_training.spec_of(configuration)
    asked = []

    def backwards(function: Any, tasks: Any) -> Any:
        listed = list(tasks)
        asked.append([task.label for task in listed])
        return reversed([function(task) for task in reversed(listed)])

    made = finetuned_draws._train(finetuned_training.further_tasks(configuration, spec), lambda *told: None, backwards)
    assert asked == [["without first", "without second"]]
    assert [one.label for one in made] == ["without first", "without second"]


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_trains_smollm2_for_two_real_rewards(tmp_path: Path) -> None:
    started = time.monotonic()
    result = command("run", EXAMPLES / "finetuned.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    assert time.monotonic() - started < 240  # two minutes where nothing else runs
    receipt = json.loads(result.out)
    assert receipt["trainer"]["is_faithful"]
    assert receipt["certificate"]["tightness"] > 0
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    game = read_sampled_game(tmp_path / "out/game.json")
    assert game.draws["final"].rewards.shape == (2, 2, 24)
