"""``run`` with outcomes draws, on a language model whose responses can all be listed: the truth is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyarrow import parquet

from rlhf_game import InputError, RunError
from rlhf_game.files.drawn import read_drawn_game, settle_drawn
from rlhf_game.files.receipts import Receipt
from rlhf_game.files.run_folder import open_folder
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
from rlhf_game.training_backends.lm.models import load_language_model
from tests import tiny
from tests.cli.runner import run as command
from tests.outcomes.killing import killed_everywhere
from tests.outcomes.listed import LONGEST, SIZES, STRENGTH, Truth, document
from tests.outcomes.test_run import contents
from tests.servers import chatting, serving
from tests.training_backends.trainers.policies.enumerable import PROMPT

DRAWS: dict[str, Any] = {
    "kind": "draws", "draws": 12, "max_proposals": 5_000, "max_new_tokens": LONGEST, "batch_size": 200,
    "ceilings": {"first": 0.9},
}  # fmt: skip
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = ("config.json", "game.json", "receipt.json", "tape.parquet")
Config = Callable[..., Path]


@pytest.fixture
def config(place: Path) -> Config:
    def write(outcomes: dict[str, Any] | None = None, name: str = "draws.json", **changes: Any) -> Path:
        asked = document(DRAWS | (outcomes or {}), settlement_seed=7, prompts=[PROMPT, PROMPT + " c"])
        changed = {key: value for key, value in (asked | changes).items() if value is not None}
        (place / name).write_text(json.dumps(changed))
        return place / name

    return write


def done(path: Path, out: Path) -> DrawsRun:
    finished = run(read_config(path), out)
    assert isinstance(finished, DrawsRun)
    return finished


def group_of(receipt: Receipt, i: int) -> dict[str, Any]:
    found: dict[str, Any] = receipt.model_dump()["groups"][i]
    return found


def test_a_run_leaves_a_tape_and_a_receipt_that_verify(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = command("run", config(), "-o", out, "--json")
    assert (result.code, result.err) == (0, "")
    assert sorted(contents(out)) == sorted(FILES)
    receipt = json.loads(result.out)
    assert (receipt["seed_from"], receipt["settlement_seed"]) == ("config", 7)
    assert receipt["certificate"] == {"level": 0.95, "regret_bound": None}
    assert receipt["draws"]["estimator"] == "rao_blackwell"
    assert [one["accepted"] for one in receipt["draws"]["prompts"]] == [12, 12]
    assert min(receipt["draws"]["least_utilities"]) >= 0
    for group in receipt["groups"]:
        for name in ("value", "payment", "utility"):
            assert set(group[name]) == {"estimate", "low", "high", "level", "standard_error"}
            assert group[name]["standard_error"] > 0
        kept = group["size"] * group["value"]["estimate"] - group["payment"]["estimate"]
        assert group["utility"]["estimate"] == pytest.approx(kept)
    assert command("verify", out / "receipt.json", out / "game.json").code == 0
    assert (out / "report.html").is_file()
    again = command("run", config(), "-o", out)
    assert "right in expectation; proposals to each prompt: " in again.out


@pytest.fixture(scope="module")
def truth(place: Path) -> Truth:
    found = Truth(load_language_model(str(place / "model")))
    found.rewards[0] = np.minimum(found.rewards[0], DRAWS["ceilings"]["first"])
    return found


def test_what_is_served_and_billed_is_the_optimum_over_all_texts(config: Config, truth: Truth, tmp_path: Path) -> None:
    """One prompt of 500 draws: frequencies, values, log Z and bills against the exact ones by listing."""
    finished = done(config({"draws": 500, "max_proposals": 10**6}, prompts=[PROMPT]), tmp_path / "out")
    p = truth.optimum(SIZES)
    drawn, receipt = settle_drawn(finished.game), finished.receipt
    exact, errors = truth.payments(p), drawn.errors.payments
    assert errors is not None
    assert (np.abs(drawn.payments.value - exact) < 4 * errors).all()
    assert (errors < 0.1).all()
    values = truth.rewards @ p
    assert drawn.values.contains(values)
    assert np.abs(drawn.values.value - values).max() < 4 * 0.5 / np.sqrt(500)
    log_z = np.log(truth.q @ np.exp(SIZES @ truth.rewards / STRENGTH))
    assert drawn.log_z.contains(log_z)
    assert drawn.affine_welfare.contains(STRENGTH * log_z)
    assert drawn.divergence.contains(p @ np.log(p / truth.q))
    assert receipt.groups[0].size == 2
    table = parquet.read_table(tmp_path / "out/tape.parquet").to_pydict()
    proposals = np.array(table["reward:second"])
    accepted = np.array(table["accepted"])
    assert proposals.mean() == pytest.approx(truth.rewards[1] @ truth.q, abs=0.02)  # proposals are of the reference
    assert proposals[accepted].mean() == pytest.approx(values[1], abs=0.04)
    assert proposals[accepted].mean() - proposals.mean() > 0.03


@pytest.mark.parametrize("seed_from", ["config", "provider"])
@pytest.mark.parametrize("calls", [1, 3])
def test_an_interrupted_tape_goes_on_and_becomes_the_same(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed_from: str, calls: int
) -> None:
    """Interrupted before the first round is kept, or between rounds; a seed that was taken is not taken again."""
    from rlhf_game.outcomes import settlement_seed
    from rlhf_game.outcomes.scoring import GroupScorer

    changes = {"batch_size": 60}, {"settlement_seed": 7 if seed_from == "config" else None}
    monkeypatch.setattr(settlement_seed.secrets, "randbelow", lambda most: 99)
    whole = done(config(changes[0], **changes[1]), tmp_path / "whole")
    kept, count = GroupScorer.score, 0

    def interrupted(self: GroupScorer, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return kept(self, *arguments)

    monkeypatch.setattr(GroupScorer, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        done(config(changes[0], **changes[1]), tmp_path / "out")
    monkeypatch.setattr(settlement_seed.secrets, "randbelow", lambda most: 100)
    monkeypatch.setattr(GroupScorer, "score", kept)
    assert not (tmp_path / "out/tape.parquet").exists()
    again = done(config(changes[0], **changes[1]), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (
        again.game.fields.settlement_seed == whole.game.fields.settlement_seed == (7 if seed_from == "config" else 99)
    )
    assert again.game.fields.seed_from == seed_from


def test_killed_before_any_rename_a_tape_goes_on_to_the_same_bytes(config: Config, tmp_path: Path) -> None:
    """Killed (-9) between and inside rounds, between tape, game and receipt."""
    path = config({"batch_size": 30, "draws": 3}, prompts=[PROMPT])
    done(path, tmp_path / "whole")
    renames = killed_everywhere(path, tmp_path / "killed")
    assert renames >= 3 + (1 + 1 + 1 + 1 + 2)  # rounds, and config, model, tape, game, sums, receipt
    for deadly in range(renames):
        assert contents(tmp_path / "killed" / str(deadly)) == contents(tmp_path / "whole"), deadly


def test_a_tape_of_pieces_of_an_earlier_release_is_not_gone_on_with(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_game.outcomes.scoring import GroupScorer

    def interrupted(self: GroupScorer, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GroupScorer, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            done(config(), tmp_path / "out")
    with open_folder(tmp_path / "out", read_config(config())) as folder:
        begun = folder.part("model", 0)
        begun.write({key: value for key, value in begun.read().items() if key != "pieces"})
    result = command("run", config(), "-o", tmp_path / "out")
    assert (result.code, "name another folder" in result.err, result.err.count("\n")) == (1, True, 1)


def test_each_text_is_scored_once_for_all_groups(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_game.outcomes.scoring import GroupScorer

    kept, seen = GroupScorer.score, list[tuple[int, str]]()

    def counted(self: GroupScorer, prompts: Any, texts: Any) -> Any:
        seen.extend(zip(prompts, texts, strict=True))
        return kept(self, prompts, texts)

    monkeypatch.setattr(GroupScorer, "score", counted)
    finished = done(config({"batch_size": 60}), tmp_path / "out")
    assert len(seen) == len(set(seen)) <= 2 * 43 < sum(tape.proposals for tape in finished.game.tapes)


def test_batches_do_not_change_what_the_tape_is(config: Config, tmp_path: Path) -> None:
    """M is the index of an acceptance: however many were asked for at a time, what comes after is not there."""
    tables = []
    for size in (30, 400):
        done(config({"batch_size": size}), tmp_path / str(size))
        tables.append(parquet.read_table(tmp_path / str(size) / "tape.parquet").to_pydict())
    assert tables[0]["response"] == tables[1]["response"]
    assert tables[0]["accepted"] == tables[1]["accepted"]
    for b in (0, 1):
        assert [a for a, prompt in zip(tables[0]["accepted"], tables[0]["prompt"], strict=True) if prompt == b][-1]


@pytest.mark.parametrize("estimator", ["tape", "log_mean", "auto"])
def test_every_estimator_settles_and_verifies(config: Config, tmp_path: Path, estimator: str) -> None:
    changes = {"strength": 4.0} if estimator == "auto" else {}
    finished = done(config({"estimator": estimator, "draws": 4, "max_proposals": 10**6}, **changes), tmp_path / "out")
    fields, draws = finished.game.fields, finished.receipt.model_dump()["draws"]
    assert draws["estimator"] == fields.estimator == ("log_mean" if estimator == "auto" else estimator)
    if estimator != "tape":
        assert all(one["accepted"] % 4 == 0 for one in draws["prompts"])
        assert finished.game.pilot is not None
        rows = parquet.read_table(tmp_path / "out/tape.parquet").to_pydict()
        assert sum(a for a, part in zip(rows["accepted"], rows["part"], strict=True) if part == 1) == 2 * 16
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0


def test_one_draw_has_no_standard_error_and_free_runs_no_bills(config: Config, tmp_path: Path) -> None:
    one = done(config({"draws": 1}), tmp_path / "one")
    paid = group_of(one.receipt, 0)["payment"]
    assert (paid["standard_error"], paid["low"], paid["high"]) == (None, pytest.approx(-1.8), pytest.approx(1.8))
    free = done(config(payment="none"), tmp_path / "free")
    for i in range(2):
        group = group_of(free.receipt, i)
        assert group["payment"] == 0.0
        assert group["utility"]["estimate"] == pytest.approx(group["size"] * group["value"]["estimate"])
    assert free.receipt.model_dump()["draws"]["second_payments"] == [0.0, 0.0]
    for name in ("one", "free"):
        assert command("verify", tmp_path / name / "receipt.json", tmp_path / name / "game.json").code == 0


def test_declared_sizes_bound_regret_for_fresh_seeds_only(config: Config, tmp_path: Path) -> None:
    declared = {"size_limit": 2, "draws": 2, "max_proposals": 10**6}
    fresh = done(config(declared, settlement_seed=None), tmp_path / "fresh").receipt.model_dump()
    assert fresh["seed_from"] == "provider"
    assert 0 <= fresh["certificate"]["regret_bound"] < 1e-6
    assert [0 <= group["regret_bound"] < 1e-6 for group in fresh["groups"]] == [True, True]
    known = done(config(declared), tmp_path / "known").receipt.model_dump()
    assert known["certificate"]["regret_bound"] is None
    other = done(config(declared, settlement_seed=None), tmp_path / "other").receipt.model_dump()
    assert other["settlement_seed"] != fresh["settlement_seed"]


def test_what_is_declared_too_dear_is_refused_before_any_reward_is_read(config: Config, tmp_path: Path) -> None:
    (config().parent / "boom.py").write_text("raise SystemExit('the reward was read')\n")
    groups = [{"name": "first", "size": 2, "reward": {"python": "boom.py:f"}}, {"name": "second", "reward": "clean"}]
    result = command("run", config({"size_limit": 3, "max_proposals": 400}, groups=groups), "-o", tmp_path / "out")
    assert result.code == 2
    for said in ("outcomes.max_proposals: must be at least", "strength 1.6", "ceilings", "candidates"):
        assert said in result.err
    assert not (tmp_path / "out").exists()


def test_too_many_proposals_void_the_run_for_everybody(config: Config, tmp_path: Path) -> None:
    path = config({"max_proposals": 40})
    for _ in range(2):  # going on does not give another chance
        result = command("run", path, "-o", tmp_path / "out")
        assert result.code == 1
        assert "void for everybody" in result.err
        assert "Traceback" not in result.err
        assert not (tmp_path / "out/receipt.json").exists()
        assert not (tmp_path / "out/tape.parquet").exists()


@pytest.mark.parametrize(
    ("outcomes", "changes", "said"),
    [
        ({"ceilings": {"third": 0.5}}, {}, "outcomes.ceilings.third: must be the name of a group"),
        ({"ceilings": {"first": 1.5}}, {}, "outcomes.ceilings.first: must be less than or equal to 1"),
        ({"size_limit": 1}, {}, "outcomes.size_limit: must be at least the size of every group"),
        ({"draws": 0}, {}, "outcomes.draws: must be greater than or equal to 1"),
        ({"estimator": "plug_in"}, {}, "outcomes.estimator: must be"),
        ({}, {"training": {"rule": "nash"}}, "training: must be social_welfare or affine with outcomes draws"),
        ({}, {"regularizer": "l2"}, "regularizer: must be kl with outcomes draws"),
        ({}, {"normalization": "sum"}, "normalization: must be none with outcomes draws"),
        ({}, {"payment": "revenue", "normalization": "sum"}, "must be none with outcomes draws"),
        ({}, {"strength": 0}, "strength: must be > 0"),
        ({"size_limit": 3}, {"strength": 0}, "strength: must be > 0"),
        ({}, {"groups": [{"name": "a", "reward": "clean", "calibration": "rank"}]}, "must not be rank"),
    ],
)
def test_what_has_no_meaning_is_refused(
    config: Config, outcomes: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    if "groups" in changes:
        outcomes = {"ceilings": {}}
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        read_config(config(outcomes, **changes))


def test_a_changed_tape_receipt_or_seed_is_found(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(config(), out)
    check = ("verify", out / "receipt.json", out / "game.json")
    receipt, game, tape = ((out / name).read_bytes() for name in ("receipt.json", "game.json", "tape.parquet"))
    document = json.loads(receipt)
    for change, said in (
        ({"draws": document["draws"] | {"least_utilities": [0.0, 0.0]}}, "draws.least_utilities"),
        ({"draws": document["draws"] | {"acceptance_rate": 1.0}}, "draws.acceptance_rate"),
        ({"certificate": {"level": 0.95, "regret_bound": 0.0}}, "certificate.regret_bound"),
        ({"settlement_seed": 8}, "settlement_seed"),
        ({"seed_from": "provider"}, "seed_from"),
    ):
        (out / "receipt.json").write_text(json.dumps(document | change))
        result = command(*check)
        assert result.code == 3, change
        assert said in result.out
    groups = json.loads(receipt)["groups"]
    groups[0]["payment"]["standard_error"] = 0.0
    (out / "receipt.json").write_text(json.dumps(document | {"groups": groups}))
    assert "groups[0].payment.standard_error" in command(*check).out
    (out / "receipt.json").write_bytes(receipt)
    (out / "game.json").write_text(game.decode().replace('"settlement_seed": 7', '"settlement_seed": 8'))
    assert "exponential: must be as the settlement seed gives it" in command(*check).out
    (out / "game.json").write_bytes(game)
    for column in ("reward:first", "exponential", "accepted"):
        table = parquet.read_table(out / "tape.parquet")
        values = table[column].to_pylist()
        values[3] = (not values[3]) if column == "accepted" else values[3] + 1e-7
        place = table.column_names.index(column)
        import pyarrow

        parquet.write_table(table.set_column(place, column, pyarrow.array(values)), out / "tape.parquet")
        result = command(*check)
        assert result.code == 3, column
        assert "tape.sha256" in result.out
        (out / "tape.parquet").write_bytes(tape)
    (out / "tape.parquet").write_bytes(b"PAR1")
    assert command(*check).code == 2
    (out / "tape.parquet").unlink()
    assert "tape.file: must name a file" in command(*check).err


def test_an_endpoint_proposes_as_well(config: Config, tmp_path: Path) -> None:
    """A stand-in that answers by a counter: no probabilities are needed, and no answer serves two draws.

    The same prompt twice has draws of its own each time.
    """
    words = ("a b", "c", "d a", "b", "c d")

    def answer(document: dict[str, Any], number: int) -> tuple[int, Any]:
        status, body, *_ = chatting(lambda asked: words[number % 5])(document, number)
        if number % 5:  # one of the texts has no probability
            body["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -1.0}] * 2}
        return status, body

    with serving(answer) as (url, seen):
        model = {"name": "stand-in", "endpoint": {"url": f"{url}/v1"}}
        path = config({"draws": 3}, model=model, system="Be brief.", prompts=[PROMPT, PROMPT], strength=1.0)
        finished = done(path, tmp_path / "out")
        tape = parquet.read_table(tmp_path / "out/tape.parquet").to_pydict()
        pairs = zip(tape["response"], tape["log_probability"], strict=True)
        assert set(pairs) == {(word, None if word == words[0] else -2.0) for word in words}
        asked = len(seen)
        assert asked >= sum(tape.proposals for tape in finished.game.tapes)
        assert seen[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        assert seen[0]["max_tokens"] == LONGEST
        again = done(path, tmp_path / "out")
        assert len(seen) == asked
        assert again.receipt == finished.receipt
        changed = config({"draws": 3}, model=model, system="Be brief.", settlement_seed=8, strength=1.0)
        other = done(changed, tmp_path / "other")
        assert len(seen) > asked
        assert other.receipt != finished.receipt
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    for key in ("top_k", "top_p"):
        with pytest.raises(InputError, match=f"outcomes.{key}: must not be here"):
            read_config(config({key: {"top_k": 3, "top_p": 0.5}[key]}, model=model))


def test_a_void_run_in_the_middle_of_a_prompt_says_which(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"prompt [01] has \d+ of 12 draws after 45 proposals"):
        done(config({"max_proposals": 45, "batch_size": 7}), tmp_path / "out")
    assert read_config(config()).fields.outcomes.kind == "draws"


def test_a_tape_that_lacks_an_acceptance_is_no_tape(config: Config, tmp_path: Path) -> None:
    done(config(), tmp_path / "out")
    game = json.loads((tmp_path / "out/game.json").read_text())
    (tmp_path / "out/game.json").write_text(json.dumps(game | {"draws": 13}))
    with pytest.raises(InputError, match="must end with its acceptance 13"):
        read_drawn_game(tmp_path / "out/game.json")
    for prompts in (1, 3, 10**9):
        (tmp_path / "out/game.json").write_text(json.dumps(game | {"prompts": prompts}))
        with pytest.raises(InputError, match="prompts: must be the 2 of the tape"):
            read_drawn_game(tmp_path / "out/game.json")


def test_the_example_settles_on_a_small_model(tmp_path: Path) -> None:
    """As it is written, but for the model: one of ten words instead of SmolLM2."""
    example = yaml.safe_load((EXAMPLES / "draws.yaml").read_text(encoding="utf-8"))
    example["model"] = str(tiny.save_language_model(tmp_path / "model"))
    (tmp_path / "draws.json").write_text(json.dumps(example))
    result = command("run", tmp_path / "draws.json", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert [group["name"] for group in receipt["groups"]] == ["cheerful", "brief"]
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_settles_as_it_is(tmp_path: Path) -> None:
    result = command("run", EXAMPLES / "draws.yaml", "-o", tmp_path / "out", "--json")
    assert result.code == 0
    assert min(json.loads(result.out)["draws"]["least_utilities"]) >= 0
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
