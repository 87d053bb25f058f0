"""``settle`` and ``verify``: from a game file to its receipt, and back."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rlhf_game.cli.checkpoints import (
    CheckpointOptions,
    DrawsOption,
    GroupsOption,
    PolicyOption,
    ReferenceOption,
    settle_checkpoint,
)
from rlhf_game.cli.seal import PublicKey, SealFile, SignKey, print_signed, unsigned
from rlhf_game.cli.set_option import Settings, settings_of

if TYPE_CHECKING:
    from rlhf_game.files.receipts import Receipt

DIFFERS: Final = 3

TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run code that the game names (its own .py files, say).")]


def settle(
    game: Annotated[
        Path | None,
        typer.Argument(metavar="[GAME]", help="A game: .yaml, .yml, .json, or .jsonl (one a line)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON (.jsonl: one a line).")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the receipt there.")] = None,
    sealed: SealFile = None,
    sign: SignKey = None,
    trusted: TrustCode = False,
    settings: Settings = None,
    policy: PolicyOption = None,
    reference: ReferenceOption = None,
    groups: GroupsOption = None,
    draws: DrawsOption = None,
) -> None:
    """Settle a game: train the policy exactly, and charge every group.

    A policy of 2^22 probabilities or more is no part of the receipt's text: with -o it is written beside the receipt,
    as NAME.policy.npy, and the receipt names it.
    With --policy or --draws, settle a checkpoint that anybody trained, by fresh draws of it.
    """
    from rlhf_game.errors import InputError

    if sign is not None:
        from rlhf_game.files.signatures import check_key

        check_key(sign, is_written=out is not None or as_json)
    if policy is not None or draws is not None:
        asked = CheckpointOptions(policy, reference, groups, draws, tuple(settings or ()), sealed, sign)
        settle_checkpoint(game, asked, out, as_json)
        return
    if reference is not None or groups is not None:
        raise InputError("--policy: must be given with --reference or --groups, or --draws, found neither")
    if game is None:
        raise InputError("GAME: must be given, or --policy or --draws, found nothing")
    _settle_games(game, as_json, out, sealed, sign, trusted, tuple(settings or ()))


def _settle_games(
    game: Path,
    as_json: bool,
    out: Path | None,
    sealed: Path | None,
    sign: Path | None,
    trusted: bool,
    settings: Sequence[str],
) -> None:
    from rlhf_game.cli.display import show_receipt, show_receipts, write_out
    from rlhf_game.files.atomic import check_output, write_text
    from rlhf_game.files.build import settle as settle_game
    from rlhf_game.files.build import settle_without
    from rlhf_game.files.games import is_list, read_games
    from rlhf_game.files.policies import beside, write_policy
    from rlhf_game.files.receipts import receipt_of, receipt_pieces

    lines = is_list(game)
    games = read_games(game, trusted=trusted, settings=settings)
    beside_out = [] if out is None else [beside(out, i + 1 if lines else None) for i in range(len(games))]
    for place in [] if out is None else [out, *beside_out]:
        check_output(place, "game", game)
        check_output(place, "seal", sealed)
        check_output(place, "key", sign)
        check_output(place, "game's table", *(file for one in games for file in one.files))
    committed = None if sealed is None else _under_seal(sealed, game, games[0].name, trusted, settings)
    receipts, long = [], {}
    for i, one in enumerate(games):
        settlement, values_without = (settle_game(one), None) if as_json or lines else settle_without(one)
        receipts.append(receipt_of(one, settlement) if committed is None else committed(receipt_of(one, settlement)))
        if receipts[i].policy is None and one.fields.models is None:
            long[i] = settlement
    for i, settlement in long.items() if beside_out else ():
        written = write_policy(beside_out[i], games[i], settlement.policy)
        receipts[i] = receipts[i].model_copy(update={"policy": written})
    if sign is not None:
        receipts = [_with_signature(one, sign) for one in receipts]
    pieces = [] if out is None and not as_json else receipt_pieces(receipts, lines=lines)
    if out is not None:
        write_text(out, *pieces)
    if as_json:
        write_out(*pieces)
    elif values_without is None:
        show_receipts(receipts)
    else:
        show_receipt(receipts[0], values_without)


def _under_seal(
    sealed: Path, game: Path, name: str, trusted: bool, settings: Sequence[str]
) -> "Callable[[Receipt], Receipt]":
    """Check a seal against the reports of a game; return what puts its commitments into a receipt."""
    from rlhf_game.files.games import read_game
    from rlhf_game.files.seals import check_seal, read_seal, reports_of, with_commitments

    reports, seal = reports_of(read_game(game, trusted=trusted, settings=settings)), read_seal(sealed)
    check_seal(seal, reports, name)
    return partial(with_commitments, seal=seal, reports=reports)


def _with_signature(receipt: "Receipt", key: Path) -> "Receipt":
    from rlhf_game.files.receipts import Receipt
    from rlhf_game.files.signatures import signed

    return Receipt.model_validate(signed(receipt.model_dump(), key))


def verify(
    receipt: Annotated[
        Path,
        typer.Argument(
            metavar="RECEIPT|FOLDER",
            help="What settle or receipt --for wrote; or what `run`, `simulate`, `train` or `discover` filled.",
        ),
    ],
    game: Annotated[
        Path | None,
        typer.Argument(
            metavar="GAME|REPORT|CONFIG",
            help="The game; or the group's own report, as JSON; with --recompute, what the run was made of.",
        ),
    ] = None,
    sealed: SealFile = None,
    key: PublicKey = None,
    without: Annotated[
        Path | None,
        typer.Option(metavar="RECEIPT", help="Of an own receipt: a receipt of the game without the group, of KL."),
    ] = None,
    replay: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Of a study: play K games again, picked at random.")
    ] = None,
    recompute: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Of a run: score K responses again, picked at random.")
    ] = None,
    trusted: TrustCode = False,
    settings: Settings = None,
) -> int:
    """Settle a game again and compare with its receipt: exit code 3, and what differs, if they disagree.

    What was settled with --set is verified with the same --set.
    Of a folder, every file is compared with its seal, and what can be made again from the files in it is.
    A group's own receipt (receipt --for) is compared with its own report: {"reward": [..], "size": w}.
    Numbers agree within 1e-9 of the larger one (payments however small) or within rounding of the game's own scale.
    """
    from rlhf_game.errors import InputError
    from rlhf_game.files.own import check_own, is_own
    from rlhf_game.files.own_spread import spread_differences

    if receipt.is_dir():
        return _verify_folder(receipt, game, key, (replay, recompute), trusted)
    if replay or recompute:
        raise InputError(f"{receipt}: must be the folder of a study with --replay, of a run with --recompute")
    if game is None:
        raise InputError(f"{receipt}: must come with its game, or the group's own report, or be a folder")
    if is_own(game) or (game.suffix == ".json" and receipt.suffix in (".yaml", ".yml")):
        raise InputError(
            f"{receipt}: must be the receipt, and {game} what it is checked with, found them the other way round"
        )
    if is_own(receipt):
        found, proved = check_own(receipt, game)
        found += unsigned(receipt, key)
        if without is not None:
            found += spread_differences(receipt, game, without)
            proved.insert(1, f"checked: the policy of {without} is the one without this group")
        return _print_verified(receipt, found, [f"verified: {receipt}", *proved], key)
    if without is not None:
        raise InputError(f"{receipt}: must be a group's own receipt with --without")
    from rlhf_game.files.games import is_list, read_game
    from rlhf_game.files.receipts import read_receipts
    from rlhf_game.files.seals import COMMITMENTS, committed_differences, read_seal, reports_of
    from rlhf_game.files.signatures import KEY
    from rlhf_game.files.verify import ON_TRUST
    from rlhf_game.files.verify import verify as verify_receipts

    count, found = verify_receipts(receipt, game, trusted=trusted, settings=settings or ())
    if sealed is not None:
        (said,) = read_receipts(receipt)
        one = read_game(game, trusted=trusted, settings=settings or ())
        found += committed_differences(said, read_seal(sealed), reports_of(one))
    trust = [name for name in ON_TRUST if name != KEY and (name != COMMITMENTS or sealed is None)]
    said_so = [
        f"verified: {count} receipt{'s' if count > 1 else ''} as the game gives it",
        f"taken on trust, as no game gives it: {', '.join(trust[:-1])} and {trust[-1]}",
    ]
    lines = is_list(game)
    return _print_verified(receipt, found + unsigned(receipt, key, lines=lines), said_so, key, lines)


def _verify_folder(
    folder: Path, config: Path | None, key: Path | None, again: tuple[int | None, int | None], trusted: bool
) -> int:
    from rlhf_game.cli.folder_kinds import again_differences, verify_folder

    found, said = verify_folder(folder, trusted=trusted)
    if not found:
        found, done = again_differences(folder, config, *again, trusted=trusted)
        said += done
    return _print_verified(folder, found + unsigned(folder, key), said, key)


def _print_verified(path: Path, found: list[str], verified: list[str], key: Path | None, lines: bool = False) -> int:
    """Print what is wrong, or what was verified and which key signed it; return the exit code."""
    for text in found or verified:
        typer.echo(text)
    if found:
        return DIFFERS
    print_signed(path, key, lines=lines)
    return 0


def receipt(
    source: Annotated[Path, typer.Argument(metavar="GAME|RUN", help="A game, or the folder of a run.")],
    name: Annotated[str, typer.Option("--for", metavar="NAME", help="The group whose bill it is.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OWN.json", help="Write the group's own receipt there.")],
    sealed: SealFile = None,
    sign: SignKey = None,
    trusted: TrustCode = False,
    settings: Settings = None,
) -> None:
    """Write one group's own receipt: what it needs to check its bill with its own report and nobody else's."""
    from rlhf_game.errors import InputError
    from rlhf_game.files.atomic import check_output, write_text
    from rlhf_game.files.games import read_game
    from rlhf_game.files.own import OwnReceipt, own_receipt
    from rlhf_game.files.sampled import space_of
    from rlhf_game.files.seals import committed_own, read_seal
    from rlhf_game.files.signatures import check_key, signed

    check_key(sign)
    game = source / "game.json" if source.is_dir() else source
    if not game.is_file():
        raise InputError(f"{source}: must be a game, or the folder of a run with a game.json, found neither")
    check_output(out, "game", game)
    check_output(out, "seal", sealed)
    check_output(out, "key", sign)
    if space_of(game) in ("samples", "draws"):
        raise InputError(
            f"{game}: space: a bill from samples is an estimate from everybody's rewards: no group can check it alone"
        )
    own = own_receipt(read_game(game, trusted=trusted, settings=settings_of(source, settings)), name)
    kept = source / "seal.json"  # of a run that was made under one
    if sealed is not None or kept.is_file():
        own = committed_own(own, read_seal(sealed or kept))
    write_text(out, OwnReceipt.model_validate(signed(own.document(), sign)).text())
    typer.echo(f"own receipt of {name}: {out}")
