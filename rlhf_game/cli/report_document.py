"""A report as audits print it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_game.mechanism.reports import Report


def report_document(report: "Report") -> dict[str, Any]:
    """Return a report as audits print it."""
    reward: Any = report.reward
    rows = isinstance(reward, list) and len(reward) > 0 and not isinstance(reward[0], int | float)
    return {"size": int(report.size), "reward": [_list(row) for row in reward] if rows else _list(reward)}


def _list(row: Any) -> Any:
    return row if isinstance(row, list) else row.tolist()
