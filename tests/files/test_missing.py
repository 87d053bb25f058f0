"""Games that know how much of the reference is missing: receipts with intervals, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from rlhf_game.files.games import read_game
from rlhf_game.files.receipts import Interval, Receipt, read_receipts, receipt_of
from rlhf_game.files.verify import game_differences


def document(**changes: Any) -> dict[str, Any]:
    return {
        "reference": [[0.6, 0.3, 0.1], [0.5, 0.5]],
        "missing": [0.01, 0.05],
        "bounds": [0, 1],
        "strength": 0.5,
        "groups": [
            {"name": "a", "size": 2, "reward": [[1, 0, 0.5], [0.2, 0.7]]},
            {"name": "b", "size": 1, "reward": [[0, 1, 0.5], [0.2, 0.7]]},
        ],
    } | changes


def settled(folder: Path, game: dict[str, Any]) -> Receipt:
    path = folder / "game.json"
    path.write_text(json.dumps(game), encoding="utf-8")
    read = read_game(path)
    return receipt_of(read, settle(read))


def test_the_receipt_holds_the_numbers_of_the_table_and_certain_intervals_around_them(tmp_path: Path) -> None:
    whole = settled(tmp_path, {k: v for k, v in document().items() if k not in ("missing", "bounds")})
    receipt = settled(tmp_path, document())
    pairs = [
        (getattr(receipt, f), getattr(whole, f)) for f in ("social_welfare", "divergence", "affine_social_welfare")
    ]
    for mine, exact in zip(receipt.groups, whole.groups, strict=True):
        pairs += [(getattr(mine, field), getattr(exact, field)) for field in ("value", "payment", "utility")]
    for interval, number in pairs:
        assert isinstance(interval, Interval)
        assert interval.level == 1.0
        assert interval.low < number < interval.high
        assert interval.estimate == pytest.approx(number, rel=1e-12)
    assert receipt.policy == whole.policy
    assert receipt.game_sha256 != whole.game_sha256


def test_a_receipt_with_intervals_is_verified_and_a_forged_end_is_found(tmp_path: Path) -> None:
    receipt = settled(tmp_path, document())
    game = read_game(tmp_path / "game.json")
    (tmp_path / "receipt.json").write_text(receipt.text(), encoding="utf-8")
    (read,) = read_receipts(tmp_path / "receipt.json")
    assert game_differences(read, game, settle(game), tmp_path) == []
    forged = settled(tmp_path, document(missing=[0.01, 0.04]))
    found = game_differences(forged, game, settle(game), tmp_path)
    assert any("groups[0].payment.high" in line for line in found)


def test_nothing_missing_gives_points(tmp_path: Path) -> None:
    receipt = settled(tmp_path, document(missing=[0, 0]))
    for group in receipt.groups:
        assert isinstance(group.payment, Interval)
        assert group.payment.high - group.payment.low == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing": [0.1]}, r"missing: must have one number per prompt \(2\), found 1"),
        ({"missing": [0.1, 1]}, r"missing\[1\]: must be less than 1, found 1"),
        ({"missing": None}, "missing: must be given with bounds, found nothing"),
        ({"bounds": None}, "bounds: must be given with missing, found nothing"),
        ({"bounds": [1, 0]}, r"bounds: must be \[lowest, highest\], found \[1.0, 0.0\]"),
        ({"bounds": [0, 0.9]}, r"groups\[0\].reward: must be within the declared bounds \[0.0, 0.9\], got 1.0"),
        ({"regularizer": "l2"}, "regularizer: must be kl with missing mass, found l2"),
        ({"payment": "revenue", "normalization": "max"}, "normalization: must be none with missing mass, found max"),
    ],
)
def test_missing_mass_that_cannot_be_certified_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settled(tmp_path, document(**changes))
