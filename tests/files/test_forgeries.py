"""No forgery of any leaf of any kind of receipt passes that the docs do not list, whatever hashes are made to fit."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.cli.folder_kinds import verify_folder
from rlhf_game.errors import RlhfGameError
from rlhf_game.files import verify as verifying
from rlhf_game.files.drawn import read_drawn_game
from rlhf_game.files.games import read_game
from rlhf_game.files.own import check_own, climb, commitment, merkle
from rlhf_game.files.receipts import read_receipts
from rlhf_game.files.sampled import read_sampled_game
from rlhf_game.files.seals import committed_differences, read_seal, reports_of, seal_differences, seed_of
from rlhf_game.files.tables import digest
from rlhf_game.files.workspace import SUMS
from tests.cli.runner import run
from tests.files.forgeries import GAMES, KINDS, LISTED, TABLE, document_of, forged, lies, receipt

PAGE = Path(__file__).resolve().parents[2] / "docs/own_bill.md"
ANY = {
    "version": "0.0.1", "provenance": {"model": {"sha256": "0" * 64}, "seed": 7},
    "commitments": {"root": "0" * 64}, "signature": {"key": "0" * 64, "value": "0" * 128},
}  # fmt: skip
SALT = "11" * 32
READERS = {"samples": read_sampled_game, "draws": read_drawn_game}
MADE_ONCE = (
    "read_games", "settle", "receipt_of", "read_sampled_game", "sampled_receipt", "read_drawn_game", "drawn_receipt",
)  # fmt: skip

seen: dict[str, set[str]] = {document: set() for document in LISTED}
tried: list[str] = []
made: list[str] = []
MOST_SAID = 10_000
"""What the page says of the number of forgeries."""
EVERY = 2 * len(KINDS) + 2 + 9 + 2 + 5
"""How often the tests of this file look into the list."""


def listed(document: str, accepted: set[str]) -> None:
    """Hold that whatever passes is listed, and remember it: each line of the list must pass somewhere."""
    tried.append(document)
    known = LISTED.get(document, {})
    unlisted = {name for name in accepted if not any(name.startswith(key) if key else not name for key in known)}
    assert unlisted == set(), document
    if document in seen:
        seen[document] |= {key for key in known for name in accepted if (name.startswith(key) if key else not name)}


def passing(forgeries: Iterator[tuple[str, Any]], passes: Callable[[Any], bool]) -> tuple[int, set[str]]:
    count, accepted = 0, set()
    for name, document in forgeries:
        count += 1
        made.append(name)
        try:
            if passes(document):
                accepted.add(name)
        except RlhfGameError:
            continue
    return count, accepted


@pytest.mark.parametrize("kind", KINDS)
def test_no_forged_leaf_of_a_receipt_or_its_game_passes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game, path, other = KINDS[kind](tmp_path), tmp_path / "receipt.json", tmp_path / "other.json"
    whole = json.loads(game.read_text())
    honest = receipt(game) | ANY

    def passes(document: Any, of: Path = game) -> bool:
        path.write_text(json.dumps(document))
        return not verifying.verify(path, of)[1]

    def passes_as_game(document: Any) -> bool:
        other.write_text(json.dumps(document))
        space = document.get("space") if isinstance(document, dict) else None
        sha256 = READERS.get(str(space), read_game)(other).sha256  # type: ignore[operator]
        same = isinstance(document, dict) and document.get("provenance") == whole.get("provenance")
        return not (sha256 == honest["game_sha256"] and same) and passes({**honest, "game_sha256": sha256}, other)

    assert passes(honest)
    games, accepted = passing(forged(whole, 6), passes_as_game)
    listed(document_of(kind), {name or "outcomes" for name in accepted})
    with monkeypatch.context() as patch:  # what the game gives does not depend on what is said of it
        for name in MADE_ONCE:
            patch.setattr(verifying, name, made_once(getattr(verifying, name)))
        receipts, accepted = passing(forged(honest), passes)
    listed("receipt", {name or "version" for name in accepted})
    assert games > 110
    assert receipts > 230


def made_once(function: Callable[..., Any]) -> Callable[..., Any]:
    made: list[Any] = []

    def again(*arguments: Any, **more: Any) -> Any:
        if not made:
            made.append(function(*arguments, **more))
        return made[0]

    return again


@pytest.mark.parametrize(("kind", "field"), [("samples", "scores"), ("draws", "tape")])
def test_no_forged_number_of_a_table_passes_though_all_hashes_fit(kind: str, field: str, tmp_path: Path) -> None:
    game, path = KINDS[kind](tmp_path), tmp_path / "receipt.json"
    honest, said = receipt(game), json.loads(game.read_text())
    file = tmp_path / said[field]["file"]

    def passes(_: Any) -> bool:
        game.write_text(json.dumps({**said, field: {**said[field], "sha256": digest(file)}}))
        path.write_text(json.dumps({**honest, "game_sha256": READERS[said["space"]](game).sha256}))  # type: ignore[operator]
        return not verifying.verify(path, game)[1]

    assert passes(None)
    count, accepted = passing(forged_cells(file), passes)
    listed(f"{file.name}, all hashes made to fit", accepted)
    assert count > 40


def forged_cells(file: Path) -> Iterator[tuple[str, Any]]:
    """Put every forgery of some cells of each column into a table, one at a time, and put it back."""
    whole, content = parquet.read_table(file), file.read_bytes()
    for at, column in enumerate(whole.column_names):
        values, kind = whole[column].to_pylist(), whole.schema.field(column).type
        for i in sorted({0, len(values) // 2, len(values) - 1}):
            for lie in lies(values[i]):
                if type(lie) is not type(values[i]) or lie == values[i]:
                    continue
                try:
                    forged_column = pyarrow.array([*values[:i], lie, *values[i + 1 :]], type=kind)
                except (pyarrow.ArrowException, OverflowError):
                    continue
                parquet.write_table(whole.set_column(at, whole.schema.field(column), forged_column), file)
                yield column, None
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["table", "prompts", "automaton", "l2", "js", "chi2", "affine_maximiser", "sealed"])
def test_no_forged_leaf_of_an_own_receipt_passes(kind: str, tmp_path: Path) -> None:
    document = json.loads(json.dumps(GAMES.get(kind, TABLE)))
    mine = document["groups"][0]
    report = {"reward": mine["reward"], "size": mine["size"]}
    game, own, said, seal = (tmp_path / f"{name}.json" for name in ("game", "own", "report", "seal"))
    if kind == "sealed":
        report["salt"] = mine["salt"] = SALT
    if kind == "prompts":
        document["provenance"] = {"prompts": ["Why?", "How?", "When?"][: len(document["reference"])]}
    game.write_text(json.dumps(document))
    said.write_text(json.dumps(report))
    if kind == "sealed":
        run("seal", game, "-o", seal)
    sealed = ("--seal", seal) if kind == "sealed" else ()
    assert run("receipt", game, "--for", mine["name"], "-o", own, *sealed).code == 0
    honest = json.loads(own.read_text())

    def passes(document: Any) -> bool:
        own.write_text(json.dumps(document))
        return not check_own(own, said)[0]

    def passes_made_to_fit(document: Any) -> bool:
        if not isinstance(document, dict) or not isinstance(document.get("for"), str):
            return False
        leaf = commitment(document["for"], report["size"], report["reward"], bytes.fromhex(SALT))
        try:
            return passes({**document, "commitment": leaf, "root": climb(leaf, document["path"])})
        except (TypeError, ValueError, KeyError):
            return False

    assert passes(honest)
    count, accepted = passing(forged(honest), passes)
    listed("own receipt", accepted)
    assert count > 200
    if kind == "sealed":
        assert not {name for name in accepted if name.startswith("for")}
        _, fitted = passing(forged(honest), passes_made_to_fit)
        listed("own receipt, commitment and root made to fit", fitted - accepted)


def test_no_forged_leaf_of_a_seal_or_of_a_receipt_under_it_passes(tmp_path: Path) -> None:
    document = json.loads(json.dumps(TABLE))
    document["groups"][0]["salt"] = SALT
    game, path, sealed = (tmp_path / f"{name}.json" for name in ("game", "seal", "receipt"))
    game.write_text(json.dumps(document))
    assert run("seal", game, "-o", path).code == 0
    assert run("settle", game, "--seal", path, "-o", sealed).code == 0
    reports, honest, said = reports_of(read_game(game)), json.loads(path.read_text()), json.loads(sealed.read_text())
    seal = read_seal(path)

    def passes_as_receipt(document: Any) -> bool:
        sealed.write_text(json.dumps({**said, "commitments": document}))
        return not committed_differences(read_receipts(sealed)[0], seal, reports)

    assert passes_as_receipt(said["commitments"])
    assert passing(forged(said["commitments"]), passes_as_receipt)[1] == set()

    def passes(document: Any) -> bool:
        path.write_text(json.dumps(document))
        return not seal_differences(read_seal(path), reports)

    def passes_made_to_fit(document: Any) -> bool:
        try:
            document = json.loads(json.dumps(document))
            for group, report in zip(document["groups"], sorted(reports, key=lambda one: one.name), strict=True):
                salt = bytes.fromhex(group["salt"])
                group["commitment"] = commitment(group["name"], report.size, report.reward, salt)
            document["root"] = merkle([group["commitment"] for group in document["groups"]])[0]
            salts = [group["salt"] for group in document["groups"]]
            document["seed"] = seed_of(document["root"], salts, document["seed_from"])
        except (TypeError, ValueError, KeyError, AttributeError):
            return False
        return passes(document)

    assert passes(honest)
    count, accepted = passing(forged(honest), passes)
    listed("seal", accepted)
    fitted = passing(forged(honest), passes_made_to_fit)[1]
    listed("seal, commitments, root and seed made to fit", fitted - accepted)
    assert count > 80


def test_no_forged_leaf_in_the_folder_of_a_run_passes_though_all_hashes_fit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    a_run(tmp_path, out)
    parts = ("receipt.json", "game.json", "config.json", "candidates.parquet", "scores.parquet")
    sums = [line.split("  ")[1] for line in (out / SUMS).read_text().splitlines()]
    whole = {name: (out / name).read_bytes() for name in parts}

    def passes(_: Any = None) -> bool:
        try:
            make_fit(out, sums)
            return not verify_folder(out)[0]
        finally:
            for name in parts if _ is not None else ():
                (out / name).write_bytes(whole[name])

    def forgeries(name: str) -> Iterator[tuple[str, Any]]:
        for place, document in forged(json.loads(whole[name]), 3):
            (out / name).write_text(json.dumps(document))
            yield place, document

    assert passes()
    total = 0
    for name in parts:
        forging = forgeries(name) if name.endswith("json") else ((at, 0) for at, _ in forged_cells(out / name))
        count, accepted = passing(forging, passes)
        total += count
        if name == "receipt.json":  # what make_fit makes anew, and the versions of libraries
            accepted -= {"game_sha256", "provenance.config_sha256"}
            accepted = {name for name in accepted if not name.startswith(("provenance.files", "provenance.versions"))}
            listed("receipt", accepted - {"provenance"})
        else:
            listed(f"{name} of a run, all hashes made to fit", accepted)
    assert total > 600


def a_run(folder: Path, out: Path) -> None:
    rows = [
        {"prompt": prompt, "response": response, "good": good, "n": count}
        for prompt, response, good, count in (
            ("p", "a", 0.2, 1),
            ("p", "b", 1.0, 2),
            ("q", "c", 0.5, 1),
            ("q", "d", 1, 3),
        )
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "outcomes": {"kind": "given", "file": "rows.jsonl", "columns": {"count": "n"}}, "strength": 0.5,
        "groups": [
            {"name": "kind", "size": 2, "reward": {"column": "good"},
             "calibration": {"kind": "affine", "low": 0, "high": 2}},
            {"name": "brief", "reward": {"brevity": 5}},
        ],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(config))
    assert run("run", folder / "run.json", "-o", out).code == 0


def make_fit(out: Path, sums: list[str]) -> None:
    """Make every hash in the folder of a run anew, as whoever changed a file of it can."""
    said = json.loads((out / "receipt.json").read_text())
    try:
        config = json.dumps(json.loads((out / "config.json").read_text()), sort_keys=True)
        said["provenance"]["config_sha256"] = hashlib.sha256(config.encode()).hexdigest()
        said["provenance"]["files"] = {name: digest(out / name) for name in ("candidates.parquet", "scores.parquet")}
        said["game_sha256"] = read_game(out / "game.json").sha256
    except (RlhfGameError, TypeError, KeyError, AttributeError):
        pass
    (out / "receipt.json").write_text(json.dumps(said))
    (out / SUMS).write_text("".join(f"{digest(out / name)}  {name}\n" for name in sums))


def test_each_line_of_the_list_passes_somewhere() -> None:
    """Run last in this file: the list in the docs promises too little trust nowhere."""
    if len(tried) < EVERY:
        pytest.skip("not all other tests of this file were run in this process")
    assert len(tried) == EVERY
    assert len(made) > MOST_SAID
    assert f"more than\n{MOST_SAID:,} forgeries" in PAGE.read_text(encoding="utf-8")
    assert {document: set(known) - seen[document] for document, known in LISTED.items()} == {
        document: set() for document in LISTED
    }
