"""Runs under a seal: what is committed to, the seal in the run's folder, and the seed that it gives."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from rlhf_game.errors import InputError
from rlhf_game.files.receipts import Receipt
from rlhf_game.files.run_folder import RunFolder
from rlhf_game.files.seals import Seal, SealedReport, check_seal, read_seal, with_commitments
from rlhf_game.outcomes.run_config import Configuration, RunConfig


def seal_file(folder: Path) -> Path:
    """Return where a run keeps the seal that it was made under."""
    return folder / "seal.json"


def sealed_reports(fields: RunConfig, files: Mapping[str, str]) -> list[SealedReport]:
    """Return the reports of a configuration, each reward by the identity of its specification.

    It is the SHA-256 of the canonical JSON of reward, calibration and the digests of the files that they name.
    """
    found = []
    for group in fields.groups:
        content = group.model_dump(mode="json", include={"reward", "calibration"})
        named = {*group.reward.files(), *group.reward.models()}
        content["files"] = {file: sha256 for file, sha256 in files.items() if file in named}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        found.append(SealedReport(group.name, group.size, hashlib.sha256(text.encode()).hexdigest(), group.salt))
    return found


def keep_seal(configuration: Configuration, folder: RunFolder, seal: Seal | None) -> None:
    """Keep the seal in the folder; check that what goes on there goes on under the same one.

    Raises InputError when a report is not as it was sealed, or the folder was begun under another seal or none.
    """
    path = seal_file(folder.path)
    if seal is None:
        return
    if configuration.fields.settlement_seed is not None:
        raise InputError("settlement_seed: must not be here with a seal, which gives the seed; found one")
    check_seal(seal, sealed_reports(configuration.fields, configuration.files), "seal")
    if path.exists():
        if read_seal(path) != seal:
            raise InputError(f"{path}: must be the seal that is given, found another; name another folder")
        return
    if folder.receipt.exists() or (folder.path / "partial").exists() or folder.candidates.exists():
        raise InputError(
            f"{folder.path}: must be a new folder for a run under a seal, found one that was begun without"
        )
    folder.workspace.write(path, seal.text().encode())


def seal_of(folder: RunFolder) -> Seal | None:
    """Return the seal that a run is made under, if any."""
    path = seal_file(folder.path)
    return read_seal(path) if path.exists() else None


def committed(configuration: Configuration, folder: RunFolder, receipt: Receipt) -> Receipt:
    """Return the receipt of a run with the commitments of its seal, if it has one."""
    return with_commitments(receipt, seal_of(folder), sealed_reports(configuration.fields, configuration.files))
