"""What runs and studies write, and the facts at the top of their reports, are what they were when recorded.

outputs.json holds the receipts of small runs of every kind of outcome (on language models of a few thousand weights,
made here), the summaries of the two examples of studies in fewer games, and each report's facts and sections. What is
meant to change is recorded anew with ``python -m tests.golden.test_outputs``, and the commit says why.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import tiny
from tests.cli.runner import run
from tests.golden.test_examples import apart, largest
from tests.outcomes.listed import LONGEST, QUICK, document
from tests.report.pages import page_of
from tests.training_backends.trainers.policies.enumerable import PROMPT, save_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECORDED = Path(__file__).with_suffix("").with_name("outputs.json")
NETWORK = 1e-5
"""Relative to the largest amount: what another processor makes of a network in float32."""
TRAINED = 1e-3
"""The same after some steps of training."""
UNLIKE = {
    "versions", "seconds", "folder", "config_sha256", "game_sha256", "results_sha256", "files", "model", "rewards",
    "version",
}  # fmt: skip
"""Keys whose contents are a machine's, a path's, an identity's or the last bits'; that they are there is still seen."""

WORDS = {"kind": "table", "values": {"good": 1.0, "please": 0.5}, "default": 0.25}
GROUPS = [{"name": "kind", "size": 2, "reward": WORDS}, {"name": "brief", "reward": {"brevity": 5}}]
TINY: dict[str, Any] = {
    "model": "tiny", "prompts": ["good", "please no yes"], "strength": 0.4, "groups": GROUPS, "seed": 4,
}  # fmt: skip
CANDIDATES = {"kind": "candidates", "per_prompt": 6, "max_new_tokens": 3}
TRIE = {"kind": "trie", "mass": 0.9, "max_tokens": 3, "max_nodes": 500}
DRAWS = {"kind": "draws", "draws": 4, "max_proposals": 5000, "max_new_tokens": LONGEST, "batch_size": 200}

RUNS: dict[str, tuple[dict[str, Any], float]] = {
    "candidates": (TINY | {"outcomes": CANDIDATES}, NETWORK),
    "trie": (TINY | {"outcomes": TRIE}, NETWORK),
    "draws": (document(DRAWS, prompts=[PROMPT, PROMPT + " c"], settlement_seed=7), NETWORK),
    "finetuned": (document(QUICK | {"payments_from": "samples"}, settlement_seed=7), TRAINED),
    "without_each": (document(QUICK | {"payments_from": "leave_one_out", "steps": 2}, settlement_seed=7), TRAINED),
}
STUDIES: dict[str, dict[str, Any]] = {
    "sweep": {"games": 10, "sweep": {"strength": [0.5], "scenario.groups": [2, 4]}},
    "market": {"games": 5, "rounds": 8},
}
NAMES = ("given", *RUNS, *STUDIES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_GAME_CACHE", str(folder / "cache"))
        yield with_models(folder)


def with_models(folder: Path) -> Path:
    save_model(folder / "model")
    tiny.save_language_model(folder / "tiny")
    return folder


def arguments_of(name: str, place: Path) -> tuple[object, ...]:
    if name == "given":
        return ("run", EXAMPLES / "given.yaml")
    path = place / f"{name}.json"
    if name in STUDIES:
        example = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
        path.write_text(json.dumps(example | STUDIES[name]))
        return ("simulate", path, "--engine", "serial")
    path.write_text(json.dumps(RUNS[name][0]))
    return ("run", path)


def written(name: str, place: Path) -> dict[str, Any]:
    """Run an example, and return what it printed with what its report says first."""
    out = place / f"out-{name}"
    done = run(*arguments_of(name, place), "-o", out, "--json")
    assert done.code == 0, done.err
    page = page_of(out / "report.html")
    facts = {fact.one("dt").text: fact.one("dd").text for fact in page.one("dl", class_="facts").all("div")}
    sections = [section.attributes["id"] for section in page.all("section")]
    found: dict[str, Any] = without(json.loads(done.out))
    return {"printed": found, "report": {"facts": facts, "sections": sections}}


def without(document: Any) -> Any:
    """Return a document with the contents of the keys of UNLIKE left out."""
    if isinstance(document, dict):
        return {key: None if key in UNLIKE else without(value) for key, value in document.items()}
    return [without(value) for value in document] if isinstance(document, list) else document


def differences(now: dict[str, Any], recorded: dict[str, Any], close: float) -> list[str]:
    found = apart(now["printed"], recorded["printed"], "printed", max(1.0, largest(recorded["printed"])), close)
    if now["report"].keys() != recorded["report"].keys() or now["report"]["sections"] != recorded["report"]["sections"]:
        found.append("report: other sections")
    names = [list(one["report"]["facts"]) for one in (now, recorded)]
    if names[0] != names[1] or (close < NETWORK and now["report"]["facts"] != recorded["report"]["facts"]):
        found.append("report: other facts")
    return found


def known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def closeness(name: str) -> float:
    return RUNS[name][1] if name in RUNS else 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_runs_studies_and_reports_say_what_they_said(name: str, place: Path) -> None:
    assert differences(written(name, place), known()[name], closeness(name)) == []


def test_everything_is_recorded() -> None:
    assert set(known()) == set(NAMES)


def _raised(printed: dict[str, Any]) -> None:
    printed["groups"][0]["payment"] *= 1 + 3e-9


def _forgotten(printed: dict[str, Any]) -> None:
    del printed["groups"][1]["utility"]


@pytest.mark.parametrize("change", [_raised, _forgotten])
def test_a_changed_payment_and_a_lost_key_are_seen(change: Callable[[dict[str, Any]], None]) -> None:
    recorded, now = known()["given"], known()["given"]
    change(now["printed"])
    assert len(differences(now, recorded, closeness("given"))) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_GAME_CACHE", str(Path(folder) / "cache"))
        place_of = with_models(Path(folder))
        found = {name: written(name, place_of) for name in NAMES}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
