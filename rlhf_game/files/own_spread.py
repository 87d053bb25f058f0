"""The policy without a group, from elsewhere, against the group's own receipt and report (KL tables).

p_-i is proportional to p exp(-g r / strength) on every prompt, so strength log(p / p_-i) - g r is the same after every
response. A receipt that comes with no p_-i defines it that way; one that was trained by itself, or sealed, is checked.
"""

import os

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.own import RELATIVE, OwnReport, own_tables, read_own, rows_of, unfit
from rlhf_game.files.receipts import read_receipts
from rlhf_game.files.schema import parse_model


def spread_differences(
    receipt: str | os.PathLike[str], report: str | os.PathLike[str], without: str | os.PathLike[str]
) -> list[str]:
    """Return a line for each prompt where the policy without the group is not what its own report takes out.

    without: a receipt of the game without the group, whose policy is p_-i. Raises InputError when a file cannot be
    read, the regulariser is not KL, or the policies have no common shape.
    """
    own, name, other = read_own(receipt), shown(os.fspath(report), 200), shown(os.fspath(without), 200)
    mine = parse_model(OwnReport, parse_json(read_text(report), name), name)
    if own.regularizer != "kl" or own.next_state is not None:
        raise InputError(
            f"{shown(os.fspath(receipt), 200)}: regularizer: must be kl, over a table, with a policy without"
        )
    policies, _, rewards = own_tables(own, mine, name)
    said = read_receipts(without)[0].policy
    rows = [np.asarray(row, dtype=np.float64) for row in rows_of(said)] if isinstance(said, list) else []
    if [row.shape for row in rows] != [p.shape for p in policies]:
        raise InputError(f"{other}: policy: must be shaped like that of the receipt, found another shape")
    share, found = (
        own.size * own.weight,
        [line for b, q in enumerate(rows) for line in unfit(q, f"{other}: policy[{b}]")],
    )
    if found:
        return found
    for b, (p, q, r) in enumerate(zip(policies, rows, rewards, strict=True)):
        there = (p > 0) & (q > 0)
        apart = own.strength * (np.log(p[there]) - np.log(q[there])) - share * r[there]
        spread = float(np.ptp(apart)) if there.any() else 0.0
        if ((p > 0) != (q > 0)).any():
            found.append(f"policy[{b}]: must be 0 where the policy without the group is 0, found others")
        elif spread > RELATIVE * max(share * float(np.abs(r).max()), own.strength):
            found.append(
                f"policy[{b}]: strength log(p / p without) - weight size reward must be one number, found a spread of "
                f"{spread:.3g}"
            )
    return found
