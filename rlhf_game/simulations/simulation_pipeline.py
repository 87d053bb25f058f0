"""``rlhf-game simulate``: play what is left of a study, join its table, sum it up."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from rlhf_game.engines import Engine, Serial
from rlhf_game.files.documents import shown
from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.files.tables import digest
from rlhf_game.files.verify import apart
from rlhf_game.files.workspace import Workspace, open_workspace
from rlhf_game.simulations.results import Parts, join, row_groups
from rlhf_game.simulations.study import SOURCE, Chunk, Study, play, read_study
from rlhf_game.simulations.summary import MOST_ERRORS, PointSummary, summary
from rlhf_game.simulations.trials import places

SECONDS: Final = 2.0
"""What is played and not yet written takes about so long, after a first chunk."""
TABLE: Final = "results.parquet"
SUMMARY: Final = "study.json"


@final
@dataclass(frozen=True)
class FinishedStudy:
    """A finished study."""

    folder: Path
    summary: dict[str, Any]
    """What study.json holds."""

    @property
    def table(self) -> Path:
        """The rows."""
        return self.folder / TABLE


def simulate(study: Study, path: Path, engine: Engine | None = None, progress: Progress | None = None) -> FinishedStudy:
    """Do what is left of the study in the folder ``path``, and return it finished; a finished one is only read.

    The table and the summary are the same bytes whatever the engine, and however often the study was interrupted.
    Raises InputError when the folder is another study's or a file in it is not as the study wrote it, RunError when the
    folder is in use or an engine fails.
    """
    watch = progress or unwatched
    with open_workspace(path, study, SUMMARY) as workspace:
        table, known, parts = path / TABLE, path / SUMMARY, Parts(workspace)
        if study.files and not (path / SOURCE).exists():
            workspace.write_json(path / SOURCE, {"folder": os.path.relpath(study.base, path)})
        if not (table.exists() and known.exists()):
            if not table.exists():
                _play(study, parts, engine or Serial(), watch)
                watch("join", 0, 1)
                join(parts, study, table)
            parts.drop()
            workspace.finish_json(known, _summed(study, table))
        return FinishedStudy(path, workspace.read_json(known))


def _play(study: Study, parts: Parts, engine: Engine, watch: Progress) -> None:
    parts.check(study)
    missing = parts.missing(study.count)
    done = study.count - len(missing)
    watch("play", done, study.count)
    pace = [1]
    for part in engine.map(play, _bundles(study, missing, pace)):
        parts.write(part)
        pace[0] = max(1, round(SECONDS * part.count / max(part.seconds, 1e-6)))
        done += part.count
        watch("play", done, study.count)


def _bundles(study: Study, missing: Sequence[int], pace: Sequence[int]) -> Iterator[list[Chunk]]:
    """Yield the missing chunks in runs of consecutive ones, each of pace[0] chunks at most, as it then is."""
    wanted = set(missing)
    bundle: list[Chunk] = []
    for chunk in study.chunks():
        is_wanted = chunk.number in wanted
        if bundle and not (is_wanted and len(bundle) < pace[0]):
            yield bundle
            bundle = []
        if is_wanted:
            bundle.append(chunk)
    if bundle:
        yield bundle


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder holds parts of a study, and no summary yet."""
    return not (folder / SUMMARY).exists() and any((folder / "partial").glob("rows-*.parquet"))


def partial_summary(folder: Path) -> dict[str, Any]:
    """Return what study.json would say of the games that an unfinished study has played so far (``played``).

    Raises InputError when it is no folder of an unfinished study.
    """
    study = read_study(folder)
    gathered, errors = _gathered(study, Parts(Workspace(folder)).tables())
    return {**summary(study, gathered, errors), "played": sum(one.games for one in gathered)}


def _summed(study: Study, table: Path) -> dict[str, Any]:
    gathered, errors = _gathered(study, row_groups(table))
    return {**summary(study, gathered, errors), "results_sha256": digest(table)}


def study_differences(folder: Path) -> list[str]:
    """Return a line for each thing that a finished study's summary says otherwise than its table.

    Its table must hold the rows of every game of the study, named as they are. Raises InputError when a file that the
    study names is not there any more, or was changed.
    """
    study = read_study(folder)
    if misplaced := _misplaced(study, folder / TABLE):
        return misplaced
    again = json.loads(json.dumps(_summed(study, folder / TABLE)))
    said = Workspace(folder).read_json(folder / SUMMARY)
    return apart((), {**said, "version": again["version"]}, again)


def _misplaced(study: Study, table: Path) -> list[str]:
    """Return a line for each row that the table names otherwise than the study, or for games that are not there."""
    games, seen = study.fields.games, 0
    for rows in row_groups(table):
        at, first = divmod(seen, games)
        point = study.points[min(at, len(study.points) - 1)]
        last = min(first + -(-len(rows) // point.layout.rows), games)
        wanted = places(point.layout, point.trials(range(first, last)), point.columns)
        if wanted.num_columns + len(point.layout.columns()) + 1 != rows.num_columns:  # one more for errors
            return [f"{TABLE}: must have the study's columns, found {shown(', '.join(rows.column_names), 200)}"]
        said = rows.select(wanted.column_names).replace_schema_metadata(None)
        if not said.equals(wanted):
            return apart((TABLE, f"point {point.index}, from game {first}"), said.to_pylist(), wanted.to_pylist())
        seen += last - first
    wanted_games = games * len(study.points)
    return [] if seen == wanted_games else [f"{TABLE}: must hold {wanted_games} games, found {seen}"]


def replay_differences(folder: Path, count: int, rng: np.random.Generator) -> tuple[int, list[str]]:
    """Play some games, picked at random, again; return how many, and a line for each number that this does not give.

    count: how many games, all of them where there are not more. Raises InputError as study_differences does.
    """
    from pyarrow import parquet

    study = read_study(folder)
    games = study.fields.games
    picked = rng.permutation(len(study.points) * games)[:count]
    found = []
    for number, game in sorted((int(k) // games, int(k) % games) for k in picked):
        point = study.points[number]
        again = point.fields.play(point.source, point.layout, point.trials(range(game, game + 1)), point.columns)
        said = parquet.read_table(folder / TABLE, filters=[("point", "=", number), ("game", "=", game)])
        found += apart((TABLE, f"point {number}, game {game}"), _known(said), _known(again))
    return len(picked), found


def _known(rows: Any) -> list[dict[str, Any]]:
    """Return the rows of a table without what has no value there."""
    return [{key: value for key, value in row.items() if value == value} for row in rows.to_pylist()]


def _gathered(study: Study, tables: Iterable[Any]) -> tuple[list[PointSummary], list[dict[str, Any]]]:
    gathered = [PointSummary(study, point) for point in range(len(study.points))]
    errors: list[dict[str, Any]] = []
    for rows in tables:
        gathered[rows.column("point")[0].as_py()].take(rows)
        if len(errors) < MOST_ERRORS:
            errors += _errors(rows, study)
    return gathered, errors


def _errors(rows: Any, study: Study) -> Iterator[dict[str, Any]]:
    """Yield the errors of a part, one of each game that failed."""
    each = study.points[rows.column("point")[0].as_py()].layout.rows
    said = rows.column("error").to_pylist()[::each]
    games = rows.column("game").to_pylist()[::each]
    for game, error in zip(games, said, strict=True):
        if error is not None:
            yield {"point": rows.column("point")[0].as_py(), "game": game, "error": error}
