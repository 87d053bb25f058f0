"""A finished run whose game was changed, with a receipt and a seal that fit the change."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_game.files.receipts import Receipt
from rlhf_game.files.workspace import Workspace
from tests.cli.runner import run as command


def differences_after(folder: Path, out: Path, change: Mapping[str, Any], receipt_of: Callable[[Path], Receipt]) -> str:
    """Copy a run to ``out``, change its game and make all else fit; return what verify finds in it.

    receipt_of: makes the receipt of a game's file. Its receipt and game alone must agree.
    """
    shutil.copytree(folder, out)
    assert command("verify", out).code == 0
    game, receipt = out / "game.json", out / "receipt.json"
    game.write_text(json.dumps(json.loads(game.read_text()) | change))
    forged = receipt_of(game).with_provenance(json.loads(receipt.read_text())["provenance"])
    receipt.unlink()
    workspace = Workspace(out)
    workspace.forget(out)
    workspace.finish(receipt, forged.text().encode())
    assert command("verify", receipt, game).code == 0
    found = command("verify", out)
    assert found.code == 3
    return str(found.out)
