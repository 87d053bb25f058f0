"""What a notebook shows of results, and their pandas tables: every number is the result's own."""

import sys
from pathlib import Path

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.simulations.study import parse_study

GROUPS = [rg.Group("<legal>", [1.0, 0.0, 0.2], 3), rg.Group("sales", [0.0, 1.0, 0.4])]


def settlement() -> rg.Settlement:
    space = rg.Table([0.5, 0.3, 0.2], rg.KL(0.25))
    return rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(GROUPS, space)


def test_a_settlement_is_a_table_of_its_groups() -> None:
    found = settlement()
    table = found.to_pandas()
    assert list(table.columns) == ["group", "size", "value", "payment", "utility"]
    assert table.group.tolist() == ["<legal>", "sales"]
    assert table["size"].tolist() == [3, 1]
    for column, numbers in (("value", found.values), ("payment", found.payments), ("utility", found.utilities)):
        assert table[column].tolist() == numbers.tolist()
    page = found._repr_html_()
    assert "&lt;legal&gt;" in page
    assert "<legal>" not in page
    assert f"<td>{found.payments[1]:.6g}</td>" in page


def test_many_games_are_a_row_for_each_group_of_each_game() -> None:
    rng = np.random.default_rng(3)
    rewards, q = rng.random((25, 2, 4)), np.full(4, 0.25)
    found = rg.settle_many(rewards, [3, 1], q, rg.KL(0.5))
    table = found.to_pandas()
    assert table.shape == (50, 6)
    assert table.payment.tolist() == found.payments.ravel().tolist()
    assert table.group.tolist() == ["group 0", "group 1"] * 25
    row = table[(table.game == 7) & (table.group == "group 0")].iloc[0]
    alone = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(
        [rg.Report(rewards[7, 0], 3), rg.Report(rewards[7, 1], 1)], rg.Table(q, rg.KL(0.5))
    )
    assert (row["size"], row.payment, row.utility) == pytest.approx((3, alone.payments[0], alone.utilities[0]))
    assert "<p>and 10 more rows</p>" in found._repr_html_()


def test_an_audit_is_a_table_of_regrets() -> None:
    free = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    space = rg.Table([0.5, 0.3, 0.2], rg.KL(0.25))
    regrets = rg.audit(free, GROUPS, space, [rg.Polarize(4.0)])
    table = regrets.to_pandas()
    assert table.found.tolist() == [regret.found for regret in regrets]
    assert table["best lie"].tolist() == [regret.best.strategy for regret in regrets]  # free lies gain
    charged = rg.audit(settlement())
    assert charged.to_pandas()["best lie"].isna().all()  # none gains where it is charged for
    assert "<td>sales</td>" in charged._repr_html_()


def test_a_study_is_a_table_of_its_points(tmp_path: Path) -> None:
    document = {"games": 5, "seed": 1, "strength": 0.5, "scenario": {"kind": "random", "groups": 3, "outcomes": 4}}
    document |= {"strategies": [{"kind": "polarize", "temperature": 2.0}], "sweep": {"strength": [0.1, 0.2]}}
    study = parse_study(document, "study", tmp_path)
    assert study.to_pandas().strength.tolist() == [0.1, 0.2]
    assert study.to_pandas().games.tolist() == [5, 5]


def test_without_pandas_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(rg.MissingExtra, match=r"pandas is not installed; .* 'rlhf-game\[report\]'"):
        settlement().to_pandas()
