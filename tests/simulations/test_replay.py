"""A game of a study is a game file: settled by hand it gives the study's numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import registry
from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from rlhf_game.files.games import read_game
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import read_study
from tests.cli.runner import run
from tests.simulations.studies import GAMES, MARKET, Interrupted, rows, study


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("regularizer", ["kl", "l2"])
def test_a_replayed_game_settles_to_the_rows_of_the_study(tmp_path: Path, suffix: str, regularizer: str) -> None:
    made = study({"games": 4, "regularizer": regularizer, "sweep": {"strength": [0.3, 2.0]}})
    finished = simulate(made, tmp_path / "study")
    table = parquet.read_table(finished.table).to_pandas()
    out = tmp_path / f"g{suffix}"
    result = run("simulate", "--replay", tmp_path / "study", "--game", "2", "--point", "1", "-o", out)
    assert (result.code, result.err, result.out) == (0, "", f"game: {out}\n")
    game = read_game(out)
    settled = settle(game)
    rows = table[(table.point == 1) & (table.game == 2) & (table.strategy == "truthful") & (table.payment == "affine")]
    assert game.fields.strength == 2.0
    assert settled.payments.tolist() == pytest.approx([rows[f"payment_{i}"].item() for i in range(3)], rel=1e-9)
    assert settled.values.tolist() == pytest.approx([rows[f"value_{i}"].item() for i in range(3)], rel=1e-9)
    assert settled.affine_social_welfare == pytest.approx(rows.affine_welfare.item(), rel=1e-12)
    assert settle(read_study(tmp_path / "study").game(2, 1)).payments.tolist() == settled.payments.tolist()


LEARNED = {"rule": "learned", "profiles": [[[1.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]]]}
WEIGHTED = {"rule": "affine", "weights": [1.0, 2.0, 0.5], "boost": [0.0, 0.0, 0.0, 1.0]}


@pytest.mark.parametrize(
    ("training", "payment"),
    [
        ("nash", "none"), ("egalitarian", "none"), ({"rule": "alpha_fair", "alpha": 2.0}, "none"),
        ("equal_say", "none"), ("median", "none"), (LEARNED, "affine"), (WEIGHTED, "affine"),
        ({"rule": "stopped", "steps": 5}, {"kind": "stopped", "steps": 3}),
        ({"rule": "stopped", "steps": 5}, "checkpoints"), ("maximal_lottery", "none"),
    ],
)  # fmt: skip
def test_a_replayed_game_is_settled_by_the_rules_of_the_study(tmp_path: Path, training: Any, payment: Any) -> None:
    """Games differ in their reference, so that what is learned of one is not what is learned of another."""
    who = {"kind": "random", "groups": 3, "outcomes": 4, "reference": "random"}
    made = study(
        {"games": 2, "scenario": who, "training": training, "payments": [payment], "strategies": [{"kind": "truthful"}]}
    )
    found, plain = rows(made), settle(study({"games": 2, "scenario": who}).game(1))
    for number in range(2):
        settled, row = settle(made.game(number)), found["game"] == number
        for key in ("value", "payment"):
            np.testing.assert_allclose(getattr(settled, f"{key}s"), found[f"{key}_i"][row][0], rtol=1e-6, atol=1e-9)
    assert np.abs(settled.values - plain.values).max() > 1e-3  # which is not what welfare alone gives


def test_a_replayed_game_names_code_from_where_it_is_written(tmp_path: Path) -> None:
    half = (
        "import rlhf_game as rg\nclass Half(rg.PaymentRule[rg.AffineRule]):\n    charge = rg.AffinePayments().charge\n"
    )
    (tmp_path / "half.py").write_text(half)
    (tmp_path / "other").mkdir()
    (tmp_path / "study.json").write_text(json.dumps({**GAMES, "games": 2, "payments": ["half.py:Half"]}))
    out = tmp_path / "other/g.json"
    assert run("simulate", "--replay", tmp_path / "study.json", "--game", 1, "-o", out).code == 0
    assert run("settle", out, "--trust-code").code == 0


def test_code_that_a_folder_names_runs_on_trust_only_and_that_of_a_file_runs(tmp_path: Path) -> None:
    """A folder is data that others may have made; the file of a study is the program of whoever plays it."""
    ran, path, out, game = (tmp_path / name for name in ("ran", "study.json", "out", "g.json"))
    half = f"open({str(ran)!r}, 'w').close()\nimport rlhf_game as rg\nclass Half(rg.PaymentRule[rg.AffineRule]):\n"
    (tmp_path / "half.py").write_text(half + "    charge = rg.AffinePayments().charge\n")
    path.write_text(json.dumps({**GAMES, "games": 2, "chunk": 1, "payments": ["half.py:Half"]}))
    assert run("simulate", path, "-o", out, "--engine", "serial").code == 0
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        simulate(read_study(path), cut, Interrupted(1))
    to = ("--game", "1", "-o", game)
    for command in (
        ("simulate", "--replay", out, *to), ("report", cut, "-o", tmp_path / "p.html"), ("verify", out),
        ("verify", out, path, "--replay", 1),
    ):  # fmt: skip
        ran.unlink(missing_ok=True)
        registry._run_once.cache_clear()
        refused = run(*command)
        assert (refused.code, "--trust-code" in refused.err, ran.exists()) == (2, True, False)
        assert run(*command, "--trust-code").code == 0
    registry._run_once.cache_clear()
    ran.unlink()
    assert run("simulate", "--replay", path, *to).code == 0
    assert ran.exists()
    assert run("simulate", path, "-o", out, "--trust-code").code == 2


def test_a_game_of_recorded_prompts_comes_back_from_the_folder_alone(tmp_path: Path) -> None:
    rewards = {"legal": [0.7, 0.2, 0.1], "sales": [0.0, 1.0, 0.0]}
    groups = [{"name": name, "size": 2, "reward": reward} for name, reward in rewards.items()]
    document = {"reference": [0.5, 0.3, 0.2], "strength": 1.0, "normalization": "sum", "groups": groups}
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec/game.json").write_text(json.dumps(document))
    made = study({"games": 2, "scenario": {"kind": "run", "game": "game.json"}}, base=tmp_path / "spec")
    simulate(made, tmp_path / "out")
    assert [group.name for group in read_study(tmp_path / "out").game(1).fields.groups] == ["legal", "sales"]
    (tmp_path / "spec/game.json").write_text(json.dumps({**document, "reference": [0.4, 0.4, 0.2]}))
    with pytest.raises(InputError, match="files: must be as they were when the study was played"):
        read_study(tmp_path / "out")


@pytest.mark.parametrize("of", [GAMES, MARKET], ids=["games", "market"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--game", "40"), "game: must be from 0 to"),
        (("--game", "-1"), "game: must be from 0 to"),
        (("--game", "1", "--point", "1"), "point: must be from 0 to 0, found 1"),
        ((), "--replay must come with --game K and -o FILE"),
    ],
)
def test_what_is_not_there_is_refused(
    tmp_path: Path, of: dict[str, Any], arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "study.json").write_text(json.dumps(of))
    result = run("simulate", "--replay", tmp_path / "study.json", *arguments, "-o", tmp_path / "g.yaml")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not (tmp_path / "g.yaml").exists()


PAGE = Path(__file__).resolve().parents[2] / "docs/simulations.md"
ONE_LINERS = {
    re.match("import ([a-z]+)", code)[1]: code for code in re.findall("```py\n(.*?)```", PAGE.read_text(), re.S)
}


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_table_opens_elsewhere_as_the_page_says(
    tmp_path: Path, library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed; the page shows how it reads a study")
    gain = simulate(study(), tmp_path / "out").summary["summaries"][2]["measures"]["gain"]["estimate"]
    code = ONE_LINERS[library].replace("runs/sweep/results.parquet", str(tmp_path / "out/results.parquet"))
    exec(compile(code, "one-liner", "exec"), {})
    assert f"{gain:.4g}"[:6] in capsys.readouterr().out
