"""What ``verify`` and ``report`` know of a folder that a command filled: its kind, its seal, what its files give."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final


@final
@dataclass(frozen=True)
class FolderKind:
    """A kind of folder, known by its last file."""

    again: str
    """What is made again from the files in it."""
    on_trust: str
    """What is not."""
    differences: Callable[[Path, bool], list[str]]
    """Of a folder whose seal is whole; whether code that its game names may run."""


def _of_run(folder: Path, trusted: bool) -> list[str]:
    from rlhf_game.outcomes.verifying import run_differences

    return run_differences(folder, trusted=trusted)


def _of_study(folder: Path, trusted: bool) -> list[str]:
    from rlhf_game.simulations.simulation_pipeline import study_differences

    return study_differences(folder)


def _of_training(folder: Path, trusted: bool) -> list[str]:
    return []


def _of_discovery(folder: Path, trusted: bool) -> list[str]:
    from rlhf_game.discovery.discovery_pipeline import discovery_differences

    return discovery_differences(folder)


KINDS: Final = {
    "receipt.json": FolderKind(
        "rewards from raw scores, the game from rewards, the receipt from the game",
        "what the language model wrote and the rewards said of it, and the versions",
        _of_run,
    ),
    "study.json": FolderKind(
        "the summary from the table", "the games themselves, which simulate --replay plays", _of_study
    ),
    "metrics.json": FolderKind("nothing is made again", "what was trained, and the metrics", _of_training),
    "result.json": FolderKind("the result from the candidates", "the scores of the candidates", _of_discovery),
}


def verify_folder(folder: Path, *, trusted: bool = False) -> tuple[list[str], list[str]]:
    """Return what is wrong with a finished folder, a line each; and if nothing is, what that proves, a line each.

    Raises InputError when it is no finished folder of a command.
    """
    from rlhf_game.errors import InputError, boundary
    from rlhf_game.files.documents import shown
    from rlhf_game.files.workspace import SUMS, Workspace
    from rlhf_game.registry import refusing_code

    workspace, name = Workspace(folder), shown(str(folder), 200)
    kind = next((kind for last, kind in KINDS.items() if (folder / last).exists()), None)
    if kind is None:
        raise InputError(f"{name}: must be a finished folder, with {' or '.join(KINDS)} in it, found none of them")
    if not workspace.is_sealed:
        raise InputError(f"{name}: must hold the seal of its files, {SUMS}, found none")
    with boundary(f"{name}: its files must go together", InputError), refusing_code(unless=trusted):
        found = workspace.differences() or kind.differences(folder, trusted)
    if found:
        return found, []
    others = workspace.others()
    return [], [
        f"verified: {workspace.count} files as they were written; made again: {kind.again}",
        f"taken on trust, as no file here gives it: {kind.on_trust}",
        *([f"beside them, and not checked: {shown(', '.join(others), 200)}"] if others else []),
    ]


def again_differences(
    folder: Path, config: Path | None, replay: int | None, recompute: int | None, *, trusted: bool = False
) -> tuple[list[str], list[str]]:
    """Return what playing games of a study, or scoring responses of a run, again does not give; and what was done.

    replay, recompute: how many, picked at random now, so that whoever made the folder cannot have known which.
    trusted: whether code that the folder names may run; what ``config`` names is of whoever verifies.
    """
    import numpy as np

    from rlhf_game.errors import InputError
    from rlhf_game.outcomes.verifying import rescored_differences
    from rlhf_game.registry import refusing_code
    from rlhf_game.simulations.simulation_pipeline import replay_differences

    found, done, rng = list[str](), list[str](), np.random.default_rng(secrets.randbits(64))
    for asked, option, last in ((replay, "--replay", "study.json"), (recompute, "--recompute", "receipt.json")):
        if asked is not None and not (folder / last).exists():
            raise InputError(f"{option}: must come with a finished folder with {last}, found {folder}")
    if replay is not None:
        with refusing_code(unless=trusted):
            count, wrong = replay_differences(folder, replay, rng)
        found += wrong
        done.append(f"{count} games played again, picked at random now")
    if recompute is not None:
        with refusing_code(unless=trusted or config is not None):
            count, wrong = rescored_differences(folder, config, recompute, rng)
        found += wrong
        done.append(f"{count} responses scored again, picked at random now")
    return found, done
