"""``audit`` of draws: the exact game over all responses, where they can be listed, else that over the tape's texts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import KL, AffinePayments, InputError, Mechanism, Report, SocialWelfare, Table
from rlhf_game.files.drawn import drawn_receipt, read_drawn_game
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.draws.listing import exact_game
from rlhf_game.training_backends.lm.models import load_language_model
from tests.cli.runner import run as command
from tests.outcomes.forged import differences_after
from tests.outcomes.listed import LONGEST, SIZES, STRENGTH, Truth, document
from tests.training_backends.trainers.policies.enumerable import PROMPT, save_model

CEILING = 0.9
DRAWS: dict[str, Any] = {
    "kind": "draws", "draws": 12, "max_proposals": 5_000, "max_new_tokens": LONGEST, "ceilings": {"first": CEILING},
}  # fmt: skip
Config = Callable[..., Path]


@pytest.fixture
def config(place: Path) -> Config:
    def write(outcomes: dict[str, Any] | None = None, **changes: Any) -> Path:
        asked = document(DRAWS | (outcomes or {}), settlement_seed=7, prompts=[PROMPT])
        (place / "listed.json").write_text(json.dumps(asked | changes))
        return place / "listed.json"

    return write


def test_audit_plays_the_exact_game_where_all_responses_can_be_listed(config: Config, place: Path) -> None:
    """The truth pays what listing says, at its ceilings, and no lie gains; without payments one does (the control)."""
    result = command("audit", config(), "--json", "--starts", 2)
    assert (result.code, result.err) == (0, "")
    truth = Truth(load_language_model(str(place / "model")))
    truth.rewards[0] = np.minimum(truth.rewards[0], CEILING)
    audited, p = json.loads(result.out), truth.optimum(SIZES)
    utilities = SIZES * (truth.rewards @ p) - truth.payments(p)
    assert (audited["outcomes"], audited["bounds_hold"]) == ("all", "in expectation over draws")
    assert [group["truthful_utility"] for group in audited["groups"]] == pytest.approx(utilities, abs=1e-6)
    assert max(group["regret_found"] for group in audited["groups"]) <= 1e-9
    free = command("audit", config(payment="none"), "--json", "--starts", 2)
    assert min(group["regret_found"] for group in json.loads(free.out)["groups"]) > 0.05


@pytest.mark.parametrize(
    ("outcomes", "changes", "said"),
    [
        ({"max_new_tokens": 8}, {}, r"must have at most 200000 responses, found 1\.68e\+06 of 8 tokens"),
        ({"max_new_tokens": 10**6}, {"model": "none"}, "must have at most 200000 responses, found those of 1000000"),
        ({"temperature": 0.5}, {}, "must be drawn with temperature 1"),
        ({}, {"model": {"name": "x", "endpoint": {"url": "http://127.0.0.1:9/v1"}}}, "must be a model on this machine"),
    ],
)
def test_what_cannot_be_listed_is_not_audited(
    config: Config, outcomes: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"outcomes: {said}"):
        exact_game(read_config(config(outcomes, **changes)))
    result = command("audit", config({"max_new_tokens": 8}))
    assert (result.code, "for all of them to be listed" in result.err) == (2, True)


@pytest.fixture(scope="module")
def drawn(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, of which the tests below copy what they change; what it names is found from where it was."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    (place / "listed.json").write_text(json.dumps(document(DRAWS, settlement_seed=7, prompts=[PROMPT])))
    run(read_config(place / "listed.json"), out)
    return out


def test_a_finished_run_is_audited_as_its_configuration_is(
    config: Config, place: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_config = json.loads(command("audit", config(), "--json", "--starts", 2).out)
    monkeypatch.chdir(place)
    of_run = command("audit", drawn, "--json", "--starts", 2)
    assert (of_run.code, of_run.err) == (0, "")
    audited = json.loads(of_run.out)
    assert audited.pop("game_sha256") == json.loads((drawn / "receipt.json").read_text())["game_sha256"]
    assert audited == {key: value for key, value in of_config.items() if key != "game_sha256"}
    said = command("audit", drawn, "--starts", 2).out
    assert "audited: the exact game over all responses" in said
    assert "(up to rounding), in expectation over draws." in said
    (tmp_path / "audit.json").write_text(of_run.out)
    assert command("report", drawn, "--audit", tmp_path / "audit.json", "-o", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "no lie of a single group gains, in expectation over draws" in page
    assert "gain at most, in expectation over draws" in page
    (tmp_path / "audit.json").write_text(json.dumps(audited | {"game_sha256": of_config["game_sha256"]}))
    other = command("report", drawn, "--audit", tmp_path / "audit.json", "-o", tmp_path / "page.html")
    assert (other.code, "game_sha256: must be that of the game" in other.err) == (2, True)


def test_responses_of_other_weights_are_not_listed_as_those_of_the_run(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another model has the name of the one that drew, its exact game is not the run's."""
    save_model(tmp_path / "model", seed=1)
    monkeypatch.chdir(tmp_path)
    audited = json.loads(command("audit", drawn, "--json", "--starts", 2).out)
    assert audited["outcomes"] == "tape"
    assert "for model: model must be the model that the run drew from, sha256" in audited["audited"]


def test_what_cannot_be_listed_is_audited_on_its_tape_and_says_so(drawn: Path, tmp_path: Path) -> None:
    """Not beside its model, nothing can be listed; the candidates are the distinct texts of the tape, by their counts.

    Settled by hand from the tape: with another reference the utilities would differ (the control).
    """
    result = command("audit", drawn, "--json", "--starts", 2)
    assert (result.code, result.err) == (0, "")
    audited = json.loads(result.out)
    assert (audited["outcomes"], audited["bounds_hold"]) == ("tape", "on the tape's texts alone")
    assert max(group["regret_found"] for group in audited["groups"]) <= 1e-9
    rows = parquet.read_table(drawn / "tape.parquet").to_pydict()
    texts = list(dict.fromkeys(rows["response"]))
    counts = np.array([rows["response"].count(text) for text in texts], dtype=float)
    first = [rows["response"].index(text) for text in texts]
    rewards = [np.array([rows[f"reward:{name}"][k] for k in first]) for name in ("first", "second")]
    rewards[0] = np.minimum(rewards[0], CEILING)
    mechanism = Mechanism(SocialWelfare(), AffinePayments())
    reports = [Report(reward, int(size)) for reward, size in zip(rewards, SIZES, strict=True)]
    utilities = [group["truthful_utility"] for group in audited["groups"]]
    for q, is_right in ((counts, True), (np.ones(len(texts)), False)):
        settled = mechanism.settle(reports, Table(q / q.sum(), KL(STRENGTH)))
        assert (utilities == pytest.approx(settled.utilities, abs=1e-9)) == is_right
    said = command("audit", drawn, "--starts", 2).out
    for part in ("not audited: the exact game, for", "by theorem", "in expectation over draws. Audited instead"):
        assert part in said
    (tmp_path / "audit.json").write_text(result.out)
    assert command("report", drawn, "--audit", tmp_path / "audit.json", "-o", tmp_path / "page.html").code == 0
    assert "gain at most, on the tape&#39;s texts alone" in (tmp_path / "page.html").read_text()


def test_a_run_that_is_unfinished_or_changed_is_not_audited(drawn: Path, tmp_path: Path) -> None:
    for name, change, said in (
        ("unfinished", lambda out: (out / "receipt.json").unlink(), "must be a finished run"),
        ("changed", lambda out: (out / "config.json").write_text("{}"), "config.json: must be as it was written"),
    ):
        shutil.copytree(drawn, tmp_path / name)
        change(tmp_path / name)
        result = command("audit", tmp_path / name)
        assert (result.code, said in result.err) == (2, True), result.err
    result = command("audit", drawn, "--set", "strength=2")
    assert (result.code, "--set: must come with a game or a configuration" in result.err) == (2, True)


def test_a_game_that_is_not_its_configurations_is_found_though_receipt_and_seal_fit_it(
    drawn: Path, tmp_path: Path
) -> None:
    found = differences_after(
        drawn, tmp_path / "out", {"level": 0.5}, lambda game: drawn_receipt(read_drawn_game(game))
    )
    assert "game.json: level" in found


def test_code_of_a_finished_run_is_not_run_unless_it_is_trusted(
    config: Config, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "mine.py").write_text(
        "from pathlib import Path\n\ndef one(prompts, completions, **columns):\n"
        "    Path('ran').touch()\n    return [0.5 + 0.1 * ('a' in text) for text in completions]\n"
    )
    groups = [{"name": "first", "reward": {"python": "mine.py:one"}}, {"name": "second", "reward": {"brevity": 9}}]
    monkeypatch.chdir(place)
    out = tmp_path / "out"
    run(read_config(config({"draws": 2}, groups=groups)), out)
    (place / "ran").unlink()
    refused = json.loads(command("audit", out, "--json", "--starts", 2).out)
    assert (refused["outcomes"], (place / "ran").exists()) == ("tape", False)
    assert "--trust-code" in refused["audited"]
    assert json.loads(command("audit", out, "--json", "--starts", 2, "--trust-code").out)["outcomes"] == "all"
    assert (place / "ran").exists()
