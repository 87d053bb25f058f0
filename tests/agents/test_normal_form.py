"""The reporting game in normal form: the golden game, equilibria by other means, and Gambit's format read back."""

import re
from itertools import product

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.normal_form import NormalForm, normal_form, standard_menu
from rlhf_game.errors import InputError
from rlhf_game.mechanism.payments import PaymentRule

SPACE = rg.Table([0.7, 0.2, 0.1], rg.KL(0.5))
GROUPS = [rg.Group("a", [0.6, 0.3, 0.1], 3), rg.Group("b", [0.1, 0.2, 0.7], 2)]


def game(payment: PaymentRule) -> NormalForm:  # type: ignore[type-arg]
    return normal_form(rg.Mechanism(rg.SocialWelfare(), payment), GROUPS, SPACE, standard_menu())


def bimatrix(first: list[list[float]], second: list[list[float]]) -> NormalForm:
    payoffs = np.stack([np.array(first, float), np.array(second, float)], axis=-1)
    names = tuple(tuple(str(k) for k in range(count)) for count in payoffs.shape[:-1])
    return NormalForm(("x", "y"), names, payoffs, payoffs.sum(axis=-1))


def test_without_payments_everybody_exaggerates_and_with_them_truth_is_dominant() -> None:
    free, paid = game(rg.NoPayments()), game(rg.AffinePayments())
    assert free.pure_equilibria() == [(3, 3)]
    assert free.affine_welfare[3, 3] == pytest.approx(1.83115, abs=5e-6)
    assert free.affine_welfare[0, 0] == pytest.approx(1.89105, abs=5e-6)
    assert paid.pure_equilibria() == [(0, 0)]
    for i, other in product((0, 1), range(4)):
        own = paid.payoffs[:, other, 0] if i == 0 else paid.payoffs[other, :, 1]
        assert own.argmax() == 0
    np.testing.assert_allclose(paid.affine_welfare, free.affine_welfare)  # the policy is the same, whoever pays


def test_regrets_are_gains_of_single_groups_by_settling() -> None:
    free = game(rg.NoPayments())
    by_hand = [max(free.payoffs[k, 0, 0] for k in range(4)) - free.payoffs[0, 0, 0],
               max(free.payoffs[0, k, 1] for k in range(4)) - free.payoffs[0, 0, 1]]  # fmt: skip
    np.testing.assert_allclose(free.regrets((0, 0)), by_hand)
    np.testing.assert_array_equal(free.regrets((3, 3)), [0, 0])


@pytest.mark.parametrize(
    ("first", "second", "pure", "mixed"),
    [
        ([[1, -1], [-1, 1]], [[-1, 1], [1, -1]], [], [([0.5, 0.5], [0.5, 0.5])]),  # matching pennies
        ([[3, 0], [5, 1]], [[3, 5], [0, 1]], [(1, 1)], [([0, 1], [0, 1])]),  # prisoners
        ([[2, 0], [0, 1]], [[1, 0], [0, 2]], [(0, 0), (1, 1)],
         [([1, 0], [1, 0]), ([0, 1], [0, 1]), ([2 / 3, 1 / 3], [1 / 3, 2 / 3])]),  # battle of the sexes
        ([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]], [], [([1 / 3] * 3, [1 / 3] * 3)]),
    ],
    ids=["pennies", "prisoners", "sexes", "stones"],
)  # fmt: skip
def test_known_games_have_their_known_equilibria(
    first: list[list[float]],
    second: list[list[float]],
    pure: list[tuple[int, ...]],
    mixed: list[tuple[list[float], ...]],
) -> None:
    of = bimatrix(first, second)
    assert of.pure_equilibria() == pure
    found = of.mixed_equilibria()
    assert len(found) == len(mixed)
    for (x, y), (wanted_x, wanted_y) in zip(found, mixed, strict=True):
        np.testing.assert_allclose(x, wanted_x, atol=1e-12)
        np.testing.assert_allclose(y, wanted_y, atol=1e-12)


def test_random_games_have_an_odd_number_of_equilibria_that_nobody_leaves() -> None:
    """Wilson 1971: almost every game has an odd number."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        of = bimatrix(rng.normal(size=(3, 4)).tolist(), rng.normal(size=(3, 4)).tolist())
        found = of.mixed_equilibria()
        assert len(found) % 2 == 1
        for x, y in found:
            assert (of.payoffs[..., 0] @ y).max() <= x @ of.payoffs[..., 0] @ y + 1e-9
            assert (x @ of.payoffs[..., 1]).max() <= x @ of.payoffs[..., 1] @ y + 1e-9


def test_nashpy_finds_the_same_by_the_vertices_of_polytopes() -> None:
    nashpy = pytest.importorskip("nashpy", reason="nashpy is not installed; equilibria are checked above")
    rng = np.random.default_rng(0)
    for _ in range(20):
        of = bimatrix(rng.normal(size=(3, 4)).tolist(), rng.normal(size=(3, 4)).tolist())
        known = list(nashpy.Game(of.payoffs[..., 0], of.payoffs[..., 1]).vertex_enumeration())
        found = [np.concatenate(pair) for pair in of.mixed_equilibria()]
        assert len(known) == len(found)
        for pair in known:
            assert min(np.abs(np.concatenate(pair) - one).max() for one in found) < 1e-9


def test_the_file_is_the_game_in_gambit_s_order() -> None:
    three = normal_form(
        rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), [*GROUPS, rg.Group('c "x"', [0.2, 0.3, 0.5], 1)], SPACE,
        standard_menu()[:3],
    )  # fmt: skip
    text = three.nfg("G3")
    head, body = text.split('""\n')
    assert head.startswith('NFG 1 R "G3" { "a" "b" "c \\"x\\"" }\n')
    assert re.findall('"(truth|polarize|resize)"', head) == ["truth", "polarize", "resize"] * 3
    rows = np.array([[float(number) for number in line.split()] for line in body.splitlines()])
    read = rows.reshape(3, 3, 3, 3).transpose(2, 1, 0, 3)  # the first player's choice runs fastest
    np.testing.assert_array_equal(read, three.payoffs)


def test_gambit_reads_it_and_finds_the_same_equilibrium(tmp_path: object) -> None:
    pygambit = pytest.importorskip("pygambit", reason="pygambit is not installed; the format is read back above")
    path = f"{tmp_path}/g.nfg"
    with open(path, "w", encoding="utf-8") as file:
        file.write(game(rg.NoPayments()).nfg("G3"))
    (found,) = pygambit.nash.enumpure_solve(pygambit.read_nfg(path)).equilibria
    assert [float(found[player.label]["both"]) for player in found.game.players] == [1, 1]


def test_reports_that_come_out_the_same_are_one_choice() -> None:
    flat = [rg.Group("a", [1.0, 0.0, 0.0], 1), rg.Group("b", [0.0, 1.0, 0.0], 1)]
    of = normal_form(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), flat, SPACE, standard_menu(), size_limit=1)
    assert of.strategies[0] == ("truth = polarize = resize = both",)


def test_too_large_games_are_refused() -> None:
    many = [rg.Group(str(i), [0.6, 0.3, 0.1], 2) for i in range(9)]
    with pytest.raises(InputError, match="the menu must leave at most 100000 profiles, got 4 x 4"):
        normal_form(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), many, SPACE, standard_menu())
    wide = bimatrix(np.eye(9).tolist(), np.eye(9).tolist())
    with pytest.raises(InputError, match="mixed equilibria need two groups with at most 8 choices each"):
        wide.mixed_equilibria()
