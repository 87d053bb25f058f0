"""The table of a study: parts that are whole or not there, joined in order at the end."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.files.run_folder import versions
from rlhf_game.files.workspace import Workspace
from rlhf_game.simulations.contents import parquet_parts
from rlhf_game.simulations.study import Study, StudyPart

_NAME: Final = re.compile(r"rows-([0-9]+)-([0-9]+)\.parquet")


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of an unfinished table: a parquet file for each run of consecutive chunks that was played."""

    workspace: Workspace

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.workspace.path / "partial"

    def files(self) -> list[tuple[int, int, Path]]:
        """Return (first chunk, how many, file) of what there is, in order."""
        found = [(match, path) for path in self.folder.glob("rows-*") if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), int(match[2]), path) for match, path in found)

    def missing(self, count: int) -> list[int]:
        """Return the numbers of the chunks that are to be played, in order."""
        there = {number for first, many, _ in self.files() for number in range(first, first + many)}
        return [number for number in range(count) if number not in there]

    def check(self, study: Study) -> None:
        """Raise InputError unless the first part holds as many rows as the study's chunks have."""
        from pyarrow import BufferReader, parquet

        for first, _, path in self.files()[:1]:
            chunk = next(one for one in study.chunks() if one.number == first)
            with parquet.ParquetFile(BufferReader(self.workspace.read(path))) as file:
                found = file.metadata.row_group(0).num_rows
            if found != len(chunk.games) * chunk.point.layout.rows:
                raise InputError(
                    f"{path}: must hold chunks of {len(chunk.games)} games, found {found // chunk.point.layout.rows}: "
                    "another version played them; remove the folder to begin anew"
                )

    def write(self, part: StudyPart) -> None:
        """Keep the rows of a part, whole or not at all."""
        self.workspace.write(self.folder / f"rows-{part.first:08d}-{part.count}.parquet", part.content)

    def tables(self) -> Iterator[Any]:
        """Yield the rows of each chunk as a pyarrow table, in order; one file is in memory at a time.

        Raises InputError when a file is not as this study wrote it.
        """
        from pyarrow import BufferReader, parquet

        for _, count, path in self.files():
            with parquet.ParquetFile(BufferReader(self.workspace.read(path))) as file:
                yield from (file.read_row_group(k) for k in range(count))

    def drop(self) -> None:
        """Forget the parts, once the table is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


def join(parts: Parts, study: Study, path: Path) -> None:
    """Write the table at ``path``, whole or not at all, from all parts in order; one part is in memory at a time."""
    note = {"config_sha256": study.sha256, "seed": study.fields.seed, "versions": versions()}
    parts.workspace.write_parts(path, parquet_parts(parts.tables(), note))


def row_groups(path: Path) -> Iterator[Any]:
    """Yield the parts of a joined table in order; raises InputError when it is no such table."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)
    except (ArrowException, OSError) as error:
        raise InputError(f"{shown(str(path), 200)}: must be a whole parquet file, found: {error}") from None
