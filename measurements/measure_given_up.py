"""Measure what is left to write where texts that cannot count are given up; writes a table of docs/draws.md.

python -m measurements.measure_given_up FOLDER    some minutes on one core; FOLDER keeps what is finished

Needs the language model of models.txt: SmolLM2. Two groups want short texts, so that how a text begins bounds both
rewards. Each run is made twice, giving texts up and not, with the same settlement seed and the same bills.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from measurements.measure_draws import PROMPTS, SEED
from measurements.measure_tape import settled
from measurements.measured import write_table
from rlhf_game.outcomes.scoring import GroupScorer

STRENGTHS, DRAWS, TOKENS = (0.5, 1.0, 2.0), 4, 32
GROUPS = (
    {"name": "brief", "size": 2, "reward": {"brevity": 30}},
    {"name": "clean", "size": 1, "reward": {"mix": [{"reward": {"brevity": 15}}, {"reward": "clean"}]}},
)
HEADS = (
    "strength", "proposals", "given up, %", "tokens of whole texts", "tokens written", "remain, %",
    "processor s, whole", "processor s, giving up",
)  # fmt: skip


@contextmanager
def whole() -> Iterator[None]:
    """Let no text be given up."""
    known = GroupScorer.bounds_beginnings
    GroupScorer.bounds_beginnings = lambda self: False  # type: ignore[method-assign]
    yield
    GroupScorer.bounds_beginnings = known  # type: ignore[method-assign]


def configuration(folder: Path, model: str, strength: float, draws: int, tokens: int) -> Path:
    """Write what is run."""
    outcomes = {"kind": "draws", "draws": draws, "max_proposals": 100_000, "max_new_tokens": tokens}
    document = {
        "model": model, "prompts": list(PROMPTS), "outcomes": outcomes, "strength": strength, "settlement_seed": SEED,
        "groups": list(GROUPS),
    }  # fmt: skip
    path = folder / f"run_{strength:g}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def row(folder: Path, model: str, strength: float, draws: int = DRAWS, tokens: int = TOKENS) -> list[str]:
    """A row of the table. Raises AssertionError when the money differs."""
    config = configuration(folder, model, strength, draws, tokens)
    less, short, quick = settled(config, folder / f"{strength:g}")
    with whole():
        more, long, slow = settled(config, folder / f"{strength:g}-whole")
    bills = [[group["payment"]["estimate"] for group in one.receipt.model_dump()["groups"]] for one in (less, more)]
    assert bills[0] == bills[1]
    written, all_of = sum(short["tokens"]), sum(long["tokens"])
    return [
        f"{strength:g}", str(len(short["tokens"])), f"{100 * (1 - np.mean(short['is_whole'])):.0f}", f"{all_of:,}",
        f"{written:,}", f"{100 * written / all_of:.0f}", f"{slow:.0f}", f"{quick:.0f}",
    ]  # fmt: skip


def main(folder: Path) -> None:
    """Measure and write the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(folder, "smollm2-135m-instruct", strength) for strength in STRENGTHS]
    write_table("draws.md", "given_up", HEADS, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
