"""Seals: every report is committed to before the draws are made, and what decides the draws is taken from all salts.

commitment = SHA-256(salt || canonical report); the root is that of the Merkle tree over the commitments in the order of
names. The seed is the hash of the root and all salts that were revealed, or of the root and a public beacon's value:
nobody, the provider included, knows it while reports can still be chosen, if one salt is secret until then, or the
beacon not yet drawn.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, final

from pydantic import Field

from rlhf_game import __version__
from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.games import Game
from rlhf_game.files.own import OwnReceipt, commitment, merkle, written
from rlhf_game.files.receipts import Receipt
from rlhf_game.files.schema import Name, Strict, parse_model

SALT_BYTES: Final = 32
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
COMMITMENTS: Final = "commitments"


@final
@dataclass(frozen=True)
class SealedReport:
    """What one group reports, as it is committed to."""

    name: str
    size: int
    reward: Any
    """The numbers on the outcomes, as nested lists; or a text, the identity of a reward that is a function."""
    salt: str | None
    """The group's own, 64 hexadecimal digits; None: it is made for it."""


@final
class SealedGroup(Strict):
    """One group's commitment, and what opens it."""

    name: Name
    commitment: Hash
    salt: Hash
    salt_from: Literal["group", "provider"]


@final
class Seal(Strict):
    """What seal.json holds."""

    version: Name
    root: Hash
    seed_from: Annotated[str, Field(pattern="^(salts|beacon:.+)$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    groups: Annotated[list[SealedGroup], Field(min_length=1)]
    signature: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return the seal as JSON has it."""
        return self.model_dump(exclude_none=True)

    def text(self) -> str:
        """Return the seal as JSON."""
        return json.dumps(self.document(), indent=1) + "\n"


def reports_of(game: Game) -> list[SealedReport]:
    """Return the reports of a game."""
    pairs = zip(game.fields.groups, game.rewards, strict=True)
    return [SealedReport(group.name, group.size, written(reward), group.salt) for group, reward in pairs]


def make_seal(reports: Sequence[SealedReport], beacon: str | None = None) -> Seal:
    """Return the seal of reports. beacon: a public value that was drawn after the root was published.

    Raises InputError when a beacon comes with a report without its own salt: the root would not be the published one.
    """
    groups = []
    for report in sorted(reports, key=lambda one: one.name):
        if report.salt is None and beacon is not None:
            raise InputError(
                f"groups: {shown(report.name)!r} must have a salt of its own with a beacon: without one the root is "
                "another each time"
            )
        salt = secrets.token_hex(SALT_BYTES) if report.salt is None else report.salt
        made = commitment(report.name, report.size, report.reward, bytes.fromhex(salt))
        made_by: Literal["group", "provider"] = "provider" if report.salt is None else "group"
        groups.append(SealedGroup(name=report.name, commitment=made, salt=salt, salt_from=made_by))
    root, _ = merkle([group.commitment for group in groups])
    seed_from = "salts" if beacon is None else f"beacon:{beacon}"
    seed = seed_of(root, [group.salt for group in groups], seed_from)
    return Seal(version=__version__, root=root, seed_from=seed_from, seed=seed, groups=groups)


def seed_of(root: str, salts: Sequence[str], seed_from: str) -> int:
    """Return the first 63 bits of the SHA-256 of the root and the salts in the order of names, or a beacon's value."""
    content = bytes.fromhex(root)
    if seed_from == "salts":
        content += b"".join(map(bytes.fromhex, salts))
    else:
        content += seed_from.removeprefix("beacon:").encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def read_seal(path: str | os.PathLike[str]) -> Seal:
    """Return the seal in a file. Raises InputError that names file and field, also when its root is not its own."""
    name = shown(os.fspath(path), 200)
    seal = parse_model(Seal, parse_json(read_text(path), name), name)
    names = [group.name for group in seal.groups]
    if names != sorted(set(names)):
        raise InputError(f"{name}: groups: must be in the order of their names, each once")
    if merkle([group.commitment for group in seal.groups])[0] != seal.root:
        raise InputError(f"{name}: root: must be that of the commitments, found another")
    if seed_of(seal.root, [group.salt for group in seal.groups], seal.seed_from) != seal.seed:
        raise InputError(f"{name}: seed: must be what the root and {seal.seed_from} give, found another")
    return seal


def seal_differences(seal: Seal, reports: Sequence[SealedReport]) -> list[str]:
    """Return a line for each report that is not the one that was sealed, or was not sealed at all.

    Groups that were sealed and report nothing are excluded, not wrong (see ``commitments``).
    """
    sealed, found = {group.name: group for group in seal.groups}, []
    for report in reports:
        group = sealed.get(report.name)
        if group is None:
            found.append(f"groups: {shown(report.name)!r} was not sealed")
        elif report.salt is not None and report.salt != group.salt:
            found.append(f"groups: {shown(report.name)!r} has another salt than the sealed one")
        elif commitment(report.name, report.size, report.reward, bytes.fromhex(group.salt)) != group.commitment:
            found.append(f"groups: {shown(report.name)!r} reports something else than it sealed")
    return found


def check_seal(seal: Seal, reports: Sequence[SealedReport], where: str) -> None:
    """Raise InputError when a report is not as it was sealed."""
    if found := seal_differences(seal, reports):
        raise InputError(f"{where}: {found[0]}")


def revealed_seed(seal: Seal, reports: Sequence[SealedReport]) -> int:
    """Return the seed of those who revealed their reports; that of the seal, if all of them did."""
    names = {report.name for report in reports}
    return seed_of(seal.root, [group.salt for group in seal.groups if group.name in names], seal.seed_from)


def commitments(seal: Seal, reports: Sequence[SealedReport]) -> dict[str, Any]:
    """Return what a receipt says of the seal: root, every commitment, and who did not reveal a report."""
    names = {report.name for report in reports}
    excluded = [group.name for group in seal.groups if group.name not in names]
    said: dict[str, Any] = {"root": seal.root, "groups": {group.name: group.commitment for group in seal.groups}}
    return {**said, "not_revealed": excluded} if excluded else said


def with_commitments(receipt: Receipt, seal: Seal | None, reports: Sequence[SealedReport]) -> Receipt:
    """Return the receipt of sealed reports; without a seal, the receipt."""
    if seal is None:
        return receipt
    return Receipt.model_validate({**receipt.model_dump(), COMMITMENTS: commitments(seal, reports)})


def committed_own(own: OwnReceipt, seal: Seal) -> OwnReceipt:
    """Return a group's own receipt with its commitment and the path from it to the root."""
    names = [group.name for group in seal.groups]
    if own.name not in names:
        raise InputError(f"seal: groups: must have {shown(own.name)!r}, found {', '.join(names)}")
    at = names.index(own.name)
    leaves = [group.commitment for group in seal.groups]
    path = merkle(leaves)[1][at]
    return own.model_copy(update={"commitment": leaves[at], "path": path, "root": seal.root})


def committed_differences(said: Receipt, seal: Seal, reports: Sequence[SealedReport]) -> list[str]:
    """Return in what the commitments of a receipt are not those of a seal and its reports: a line each."""
    found: Mapping[str, Any] = said.model_extra or {}
    wrong = seal_differences(seal, reports)
    if found.get(COMMITMENTS) != commitments(seal, reports):
        wrong.append("commitments: the receipt says others than the seal")
    return wrong
