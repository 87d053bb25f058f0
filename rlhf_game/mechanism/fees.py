r"""The flat fee per name that makes one truthful name an owner's best, whatever the others report.

**Theorem** (derived). Regulariser KL, any reference, boost and others; rewards in [lo, hi]. All names of one owner
share one weight mu, their sizes total at most W, and one name may carry the owner's true size. With a fee f >= F for
every name, one truthful name is at least as good as any k names with any reports and sizes, in every profile of the
others. With W' = W (hi - lo),

    F = (2 strength / mu) log cosh(mu W' / (4 strength))                                     (real sizes, or W even)
    F = (2 strength / mu) log[cosh(mu W' / (4 strength)) / cosh(mu (hi - lo) / (4 strength))]  (integers and W odd)

and for any fee f the gain of k names is at most (k - 1) max(F - f, 0). F is the least such constant.

*Lemma.* For u in [A, 1] and v in [B, 1] with 0 < A, B <= 1: E[uv] <= K E[u] E[v] with K = (1 + sqrt(AB))^2 / (sqrt A
+ sqrt B)^2. Proof: with x = E[u], y = E[v], the expectations of (1 - u)(v - B) >= 0 and (1 - v)(u - A) >= 0 give
E[uv] <= min(y + Bx - B, x + Ay - A). Divided by xy, with X = 1/x and Y = 1/y, the two bounds are X - BY(X - 1), which
falls in Y, and AX + Y(1 - AX), which rises, so for fixed x their minimum is largest where they meet: x = (t + A)/(1 +
t), y = (t + B)/(1 + t), both bounds (t + AB)/(1 + t), and the ratio is 1 + (1 - A)(1 - B)/(t + A + B + AB/t) <= K
since t + AB/t >= 2 sqrt(AB). With A = e^-a and B = e^-b, K = [cosh((a + b)/4) / cosh((a - b)/4)]^2.

*Merging.* Replace two names by one with the sum a_1 + a_2 of their contributions (weight times size times reward):
the score, the policy and all other bills stay, and the owner's bill changes by D / mu - f with D = strength log(E[uv]
/ (E[u] E[v])) under the policy, u = exp(-a_1 / strength), v = exp(-a_2 / strength). By the lemma D / mu <= F. Merge
down to one name; among single contributions truth is best (affine-maximiser payments).

For every other regulariser and for menus f >= W' / 2 suffices (derived): merging changes the bill by D / mu - f with
D = [Omega*(s) - Omega*(s - a_1)] - [Omega*(s - a_2) - Omega*(s - a_1 - a_2)], and each bracket lies between min a_1
and max a_1, so D <= max a_1 - min a_1; likewise for a_2, and the smaller of the two ranges is at most mu W' / 2.

Tests: tests/mechanism/test_fees.py (the lemma, the least constant, the sharp example, searches, two counterexamples).
"""

import math

from rlhf_game.errors import InputError


def false_name_fee(
    strength: float, owner_limit: float, *, weight: float = 1.0, width: float = 1.0, integer: bool = True
) -> float:
    """Return F, the least fee per name at which no owner gains by several names under KL, in units of money.

    strength: lambda > 0, in units of reward. owner_limit: W >= 1, the most members that all names of one owner may have
    together. weight: mu > 0, the same for all names of an owner. width: hi - lo >= 0, the range of rewards. integer:
    whether sizes are integers (then W is one too). Raises InputError when a number is out of range.
    """
    _check(owner_limit, weight, width)
    if not strength > 0:
        raise InputError(f"must be > 0, got {strength!r}", field="strength")
    unit = weight * width / (4 * strength)
    odd = integer and float(owner_limit) % 2 == 1
    return 2 * strength / weight * log_cosh_ratio(owner_limit * unit, unit if odd else 0.0)


def general_false_name_fee(owner_limit: float, *, weight: float = 1.0, width: float = 1.0) -> float:
    """Return W (hi - lo) / 2: a fee per name that suffices for every affine maximiser, in units of money.

    weight: mu, for the checks only: contributions and bills are both divided by it.
    """
    _check(owner_limit, weight, width)
    return owner_limit * width / 2


def log_cosh_ratio(a: float, b: float) -> float:
    """Return log(cosh a / cosh b) for a >= b >= 0, without cancellation and without overflow.

    cosh a / cosh b - 1 = 2 sinh((a + b) / 2) sinh((a - b) / 2) / cosh b.
    """
    if a > 20:
        return a + math.log1p(math.exp(-2 * a)) - (b + math.log1p(math.exp(-2 * b)))
    return math.log1p(2 * math.sinh((a + b) / 2) * math.sinh((a - b) / 2) / math.cosh(b))


def _check(owner_limit: float, weight: float, width: float) -> None:
    if not (math.isfinite(owner_limit) and owner_limit >= 1):
        raise InputError(f"must be a finite number >= 1, got {owner_limit!r}", field="owner_limit")
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"must be a finite number > 0, got {weight!r}", field="weight")
    if not (math.isfinite(width) and width >= 0):
        raise InputError(f"must be a finite number >= 0, got {width!r}", field="width")
