"""Tables for people, and documents for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rlhf_game.mechanism.arrays import Array

if TYPE_CHECKING:
    from rich.table import Table

    from rlhf_game.agents.coalitions import Deviation
    from rlhf_game.files.receipts import Number, Receipt
    from rlhf_game.mechanism.regret import Regret

WIDE = 200
"""Columns of a table that goes to a file or a pipe."""
UNTOUCHED = "delivered: the untouched model, better than the trained one by draws that nothing else uses\n"
FLAT_SAID = (
    "varies by less than a tenth of its range: a steeper calibration leaves more to play for (run CONFIG --calibrate "
    "FILE says which)"
)


def show_receipt(receipt: "Receipt", values_without: Array) -> None:
    """Print one settlement: a row per group, then the totals."""
    from rich.console import Group

    is_exact = all(isinstance(group.value, float) for group in receipt.groups)
    without = ("value without",) if is_exact else ()  # for it no interval is known
    groups = _table("group", "size", "value", *without, "payment", "utility")
    for group, value in zip(receipt.groups, values_without.tolist(), strict=True):
        numbers = (group.value, value, group.payment, group.utility)
        _row(groups, group.name, str(group.size), *map(number, numbers if is_exact else (numbers[0], *numbers[2:])))
    totals = _table("", "", header=False)
    revenue = _sum([group.payment for group in receipt.groups])
    _row(totals, "total revenue", number(revenue))
    _row(totals, "social welfare", number(receipt.social_welfare))
    name = receipt.regularizer or "divergence"
    _row(totals, f"moved from the reference ({name})", number(receipt.divergence))
    _row(totals, "affine social welfare", number(receipt.affine_social_welfare))
    said = receipt.model_extra or {}
    if "provider" in said:
        models = [", ".join(model["groups"]) for model in said.get("models", [])]
        is_trained = bool(models) or said.get("trained", False)
        _row(totals, "trained", ("; ".join(models) or "one model for all") if is_trained else "no model")
        _row(totals, "cost of training", number(said["provider"]["cost"]))
        _row(totals, "surplus (below 0: a deficit)", number(said["provider"]["surplus"]))
    _print(Group(groups, totals))
    if not isinstance(revenue, float):
        sure = "certain" if revenue.level == 1 else f"with probability {revenue.level:.6g}"
        write_out(f"[lowest, highest]: {sure}, over all outcomes\n")


def show_trained(document: "Mapping[str, Any]") -> None:
    """Print the settlement of a trained policy: who pays, what is certified, and what it took."""
    from rlhf_game.files.receipts import Interval, Receipt
    from rlhf_game.files.sampled import trainer_note

    receipt = Receipt.model_validate(document)
    groups = _table("group", "size", "value", "payment", "utility", "in expectation over draws no lie gains more than")
    for group, found in zip(receipt.groups, document["groups"], strict=True):
        bound = "unknown" if found["regret_bound"] is None else number(found["regret_bound"])
        _row(groups, group.name, str(group.size), *map(number, (group.value, group.payment, group.utility)), bound)
    _print(groups)
    certificate = document["certificate"]
    totals = _table("", "", header=False)
    revenue = _sum([group.payment for group in receipt.groups])
    for name, value in (
        ("total revenue", revenue),
        ("social welfare", receipt.social_welfare),
        ("moved from the reference (kl)", receipt.divergence),
        ("affine social welfare", receipt.affine_social_welfare),
        ("affine welfare of the untouched model", Interval.model_validate(document["untouched_affine_social_welfare"])),
        ("welfare that training left (gap)", Interval.model_validate(certificate["gap"])),
    ):
        _row(totals, name, number(value))
    _print(totals)
    cost, seed, trainer = document["cost"], document["settlement_seed"], document["trainer"]
    sure = 1.0 if isinstance(revenue, float) else revenue.level
    sums = "" if sure >= certificate["level"] else f" (total revenue: {sure:.6g})"
    write_out(
        f"[lowest, highest]: each with probability {certificate['level']:.6g}{sums}, over all responses\n"
        f"{UNTOUCHED if document['delivered'] == 'reference' else ''}"
        f"payments from {document['payments_from']}: {document['payments_label']}\n"
        f"tightness of the certificate: {certificate['tightness']:.3g} (0 proves truth, 1 and more says nothing)\n"
        f"settlement seed {'unknown' if seed is None else seed}, from {document['seed_from']}; cap of log ratios from "
        f"{document['cap_from']}\n"
        f"cost: {cost['trainings']} trainings of {cost['tokens']} tokens, {cost['drawn']} tokens drawn\n"
    )
    if not trainer["is_faithful"]:
        write_out(f"{trainer_note(trainer['name'], trainer['reason'])}\n")


def show_drawn(receipt: "Receipt") -> None:
    """Print the settlement of draws: who pays, with what error, and what was drawn."""
    document = receipt.model_dump()
    groups = _table(
        "group",
        "size",
        "value",
        "payment",
        "standard error",
        "utility",
        "in expectation over draws no lie gains more than",
    )
    noisy = []
    for group, found in zip(receipt.groups, document["groups"], strict=True):
        error = found["payment"]["standard_error"] if isinstance(found["payment"], dict) else 0.0
        bound = "unknown" if found["regret_bound"] is None else number(found["regret_bound"])
        said = "unknown" if error is None else number(error)
        _row(groups, group.name, str(group.size), number(group.value), number(group.payment), said,
             number(group.utility), bound)  # fmt: skip
        if found.get("draws_needed") is not None:
            noisy.append(f"{group.name}'s payment is noise so far; {found['draws_needed']} draws a prompt would do\n")
    _print(groups)
    totals = _table("", "", header=False)
    _row(totals, "social welfare", number(receipt.social_welfare))
    _row(totals, "moved from the reference (kl)", number(receipt.divergence))
    _row(totals, "affine social welfare", number(receipt.affine_social_welfare))
    _print(totals)
    draws = document["draws"]
    proposals = ", ".join(str(one["proposals"]) for one in draws["prompts"])
    write_out(
        f"[lowest, highest]: each with probability {document['certificate']['level']:.6g}, over all responses\n"
        f"bills by {draws['estimator']}, right in expectation; proposals to each prompt: {proposals}\n"
        f"settlement seed {document['settlement_seed']}, from {document['seed_from']}\n" + "".join(noisy)
    )


def show_receipts(receipts: "Sequence[Receipt]") -> None:
    """Print many settlements: a row per game."""
    table = _table("game", "groups", "social welfare", "revenue", "divergence")
    for line, receipt in enumerate(receipts, start=1):
        revenue = _sum([group.payment for group in receipt.groups])
        numbers = (receipt.social_welfare, revenue, receipt.divergence)
        _row(table, f"line {line}", str(len(receipt.groups)), *map(number, numbers))
    _print(table)


def show_audit(
    payment: str, regrets: "Sequence[Regret]", joint: "Mapping[str, Sequence[Deviation]]", bounds_hold: str = ""
) -> None:
    """Print the bracket of every group's regret, what joint lies gain, and what that proves.

    bounds_hold: where its bounds hold, if not of the game itself.
    """
    where = f", {bounds_hold}" if bounds_hold else ""
    table = _table("group", "utility", "regret found", f"regret bound{where}", "best lie found", "size said")
    for regret in regrets:
        bound = "unknown" if regret.bound is None else number(regret.bound)
        lie = (regret.best.strategy, str(regret.report.size)) if regret.is_refuted else ("none gains", "")
        _row(table, regret.group, number(regret.truthful_utility), number(regret.found), bound, *lie)
    _print(table)
    for name, deviations in joint.items():
        several = _table(name.replace("_", " "), "gain found", "sizes said")
        for deviation in deviations:
            sizes = ", ".join(str(report.size) for report in deviation.reports)
            _row(several, " + ".join(deviation.members), number(deviation.found), sizes if deviation.found else "")
        _print(several)
    if all(regret.is_proved for regret in regrets):
        verdict = f"payment {payment}: truth is a best report of every group, by the bound (up to rounding){where}."
    elif any(regret.is_refuted for regret in regrets):
        verdict = f"payment {payment}: a lie gains, so truth is not a best report."
    else:
        verdict = f"payment {payment}: no lie was found that gains; that is no proof that there is none."
    write_out(verdict + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under its title; the first column to the left, the others to the right."""
    from rich.text import Text

    table = _table(*columns)
    table.title = Text(title)
    table.title_justify = "left"
    for row in rows:
        _row(table, *row)
    _print(table)


def show_calls(report: "Mapping[str, Any]", as_json: bool) -> None:
    """Print what a run would ask of language models: a row per purpose and model, or as JSON."""
    if as_json:
        write_out(json.dumps(report) + "\n")
        return
    rows = [
        (
            row["purpose"],
            str(row["model"]),
            str(row["calls"]),
            str(row["cached"]),
            str(row["prompt_tokens"]),
            str(row["completion_tokens"]),
            "not known" if row["price"] is None else f"{row['price']:.6g}",
        )
        for row in [*report["by"], {"purpose": "all", "model": "", **report}]
    ]
    heads = ("purpose", "model", "calls", "kept already", "prompt tokens", "answer tokens", "price")
    show_table("What would be asked (tokens are estimated; of answers, as many as max_tokens lets be)", heads, rows)


def show_plan(document: "Mapping[str, Any]", as_json: bool) -> None:
    """Print what each kind of outcome would take, and what other declarations would change for draws."""
    if as_json:
        write_out(json.dumps(document) + "\n")
        return
    rows = []
    for one in document["plans"]:
        numbers = ["" if one[key] is None else f"{one[key]:.4g}" for key in ("tokens", "seconds", "width")]
        rate = "" if one["acceptance_rate"] is None else f"{one['acceptance_rate']:.2%}"
        rows.append((one["kind"], *numbers, rate))
    show_table("What it would take", ("outcomes", "tokens", "seconds", "width of a payment", "accepted"), rows)
    for one in document["plans"]:
        write_out(f"{one['kind']}: {one['proves']}\n")
        if one["kind"] == "draws":
            rates = [
                (shorten(text, 60), f"{rate:.2%}", f"{one['draws'] / rate:.4g}")
                for text, rate in zip(one["prompts"], one["acceptance_rates"], strict=True)
            ]
            heads = ("prompt", "accepted", f"proposals for {one['draws']} draws")
            show_table("What each prompt would take", heads, rates)
            changes = [(change["change"], f"{change['proposals']:.4g}") for change in one["changes"]]
            show_table("The slowest prompt, if it were declared otherwise", ("declared", "proposals"), changes)
    show_flat(document["flat"])


def show_calibrations(document: "Mapping[str, Any]", as_json: bool) -> None:
    """Print the maps and ceilings that public texts speak for, as a configuration says them."""
    if as_json:
        write_out(json.dumps(document) + "\n")
        return
    for one in document["groups"]:
        numbers = ", ".join(f"{key}: {one['calibration'][key]:.6g}" for key in ("center", "scale"))
        write_out(f"{one['name']}: calibration: {{kind: logistic, {numbers}}}, ceiling: {one['ceiling']:g}\n")
        if one["flat"]:
            write_out(f"  as declared now the reward {FLAT_SAID}\n")


def show_flat(names: "Sequence[str]") -> None:
    """Print of which groups the calibration leaves little to play for."""
    for name in names:
        write_out(f"{name}'s reward {FLAT_SAID}\n")


def show_yardstick(measured: "Mapping[str, Any]") -> None:
    """Print what a run's candidates keep of the gain over all texts."""
    share, gain = measured["kept"], measured["exact_gain"]
    write_out(
        f"{measured['per_prompt']} fresh candidates a response keep {share['estimate']:.1%} [{share['low']:.1%}, "
        f"{share['high']:.1%}] of the gain over all texts, {gain['estimate']:.4g} [{gain['low']:.4g}, "
        f"{gain['high']:.4g}]\n(bootstrap of {measured['draws']} responses of the reference to each prompt, "
        f"level {share['level']:g})\n"
    )


def number(value: "Number") -> str:
    """Return a number, or the interval that it lies in, with six digits."""
    if isinstance(value, float):
        return f"{value:z.6g}"
    return f"{value.estimate:z.6g} [{value.low:z.6g}, {value.high:z.6g}]"


def write_out(*pieces: str) -> None:
    """Print a document exactly, given in pieces."""
    sys.stdout.writelines(pieces)


def _sum(numbers: "Sequence[Number]") -> "Number":
    """Return the sum; of intervals the sums of their ends, which hold where all of them do."""
    from rlhf_game.files.receipts import Interval

    if all(isinstance(n, float) for n in numbers):
        return float(sum(n for n in numbers if isinstance(n, float)))
    rows = [(n, n, n, 1.0) if isinstance(n, float) else (n.estimate, n.low, n.high, n.level) for n in numbers]
    estimates, lows, highs, levels = zip(*rows, strict=True)
    level = max(1e-9, 1 - sum(1 - level for level in levels))
    return Interval(estimate=sum(estimates), low=sum(lows), high=sum(highs), level=level)


def _table(*columns: str, header: bool = True) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=header, pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _row(table: "Table", *cells: str) -> None:
    """Add cells as plain text: no markup of ours or of anybody's, no control characters."""
    from rich.text import Text

    from rlhf_game.files.documents import shown

    table.add_row(*(Text(shown(cell, 200)) for cell in cells))


def _print(table: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDE, highlight=False).print(table)
