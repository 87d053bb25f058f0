"""One registry of every part that may vary, and the way from a name to the class that it stands for.

A name is one that is registered, ``path/to/file.py:Name`` (relative to whoever names it), ``package.module:Name``, or
an entry point of an installed package (group ``rlhf_game.parts``, called ``NAME`` or ``ROLE.NAME``). The parts that
come with this package are listed as places, so that nothing is imported before it is used.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeVar, final

from rlhf_game.errors import InputError, RlhfGameError, boundary

Class = TypeVar("Class", bound=type)

GROUP: Final = "rlhf_game.parts"
"""The group of entry points by which an installed package brings parts."""
_MECHANISM: Final = "rlhf_game.mechanism"
_AGENTS: Final = "rlhf_game.agents"
_BASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "regularizer": f"{_MECHANISM}.regularizers.base:Regularizer",
        "payment": f"{_MECHANISM}.payments:PaymentRule",
        "training": f"{_MECHANISM}.training:TrainingRule",
        "space": f"{_MECHANISM}.spaces.base:PolicySpace",
        "scenario": "rlhf_game.simulations.populations:Scenario",
        "train": "rlhf_game.training.kinds:TrainingFields",
    }
)
"""Of each role, where the abstract class is that its parts are subclasses of; a strategy is any callable."""
_PLACES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "regularizer": {
            "kl": f"{_MECHANISM}.regularizers.kl:KL",
            "l2": f"{_MECHANISM}.regularizers.l2:SquaredL2",
            "reverse_kl": f"{_MECHANISM}.regularizers.f_divergences:ReverseKL",
            "chi2": f"{_MECHANISM}.regularizers.f_divergences:PearsonChi2",
            "js": f"{_MECHANISM}.regularizers.f_divergences:JensenShannon",
            "hellinger": f"{_MECHANISM}.regularizers.f_divergences:Hellinger",
            "alpha": f"{_MECHANISM}.regularizers.f_divergences:Alpha",
        },
        "payment": {
            "affine": f"{_MECHANISM}.payments:AffinePayments",
            "none": f"{_MECHANISM}.payments:NoPayments",
            "revenue": f"{_MECHANISM}.payments:RevenueOptimal",
            "participation": f"{_MECHANISM}.participation:ParticipationPayments",
            "checkpoints": f"{_MECHANISM}.rules.stopped_training:CheckpointPayments",
            "stopped": f"{_MECHANISM}.rules.stopped_training:StoppedPayments",
        },
        "training": {
            "social_welfare": f"{_MECHANISM}.training:SocialWelfare",
            "affine": f"{_MECHANISM}.training:AffineWelfare",
            "nash": f"{_MECHANISM}.rules.welfare_rules:NashWelfare",
            "egalitarian": f"{_MECHANISM}.rules.welfare_rules:Egalitarian",
            "alpha_fair": f"{_MECHANISM}.rules.welfare_rules:AlphaFair",
            "equal_say": f"{_MECHANISM}.rules.welfare_rules:EqualSay",
            "median": f"{_MECHANISM}.rules.welfare_rules:PolicyMedian",
            "random_dictatorship": f"{_MECHANISM}.rules.social_choice:RandomDictatorship",
            "maximal_lottery": f"{_MECHANISM}.rules.social_choice:MaximalLottery",
            "nash_feedback": f"{_MECHANISM}.rules.social_choice:NashFeedback",
            "learned": f"{_MECHANISM}.rules.learned:LearnedWelfare",
            "stopped": f"{_MECHANISM}.rules.stopped_training:StoppedTraining",
        },
        "space": {},
        "scenario": {
            kind: f"rlhf_game.simulations.populations:{kind.capitalize()}Scenario"
            for kind in ("random", "polarised", "heavy", "duplicates", "niche", "correlated")
        }
        | {"run": "rlhf_game.simulations.recorded:RunScenario"},
        "train": {
            "distill": "rlhf_game.training.recipes.distill:DistillConfig",
            "reward_model": "rlhf_game.training.recipes.reward_models:RewardModelConfig",
            "ensemble": "rlhf_game.training.recipes.reward_models:EnsembleConfig",
            "warm": "rlhf_game.training.recipes.reward_models:WarmConfig",
            "preference": "rlhf_game.training.recipes.preference:PreferenceConfig",
            "policy": "rlhf_game.training.recipes.policy:PolicyConfig",
            "osp": "rlhf_game.training.recipes.osp:OspConfig",
            "seft": "rlhf_game.training.recipes.seft:SeftConfig",
            "eso": "rlhf_game.training.recipes.eso:EsoConfig",
            "elastic_reset": "rlhf_game.training.recipes.elastic_reset:ElasticResetConfig",
        },
        "strategy": {
            "truthful": f"{_AGENTS}.misreports:Truthful",
            "polarize": f"{_AGENTS}.misreports:Polarize",
            "raise_and_lower": f"{_AGENTS}.misreports:RaiseAndLower",
            "indifferent": f"{_AGENTS}.misreports:Indifferent",
            "noisy": f"{_AGENTS}.misreports:Noisy",
            "blend": f"{_AGENTS}.misreports:Blend",
            "scale": f"{_AGENTS}.misreports:Scale",
            "resize": f"{_AGENTS}.misreports:Resize",
            "best_response": f"{_AGENTS}.best_response:BestResponse",
            "absent": "rlhf_game.simulations.strategies:AbsentStrategy",
            "coalition": "rlhf_game.simulations.strategies:CoalitionStrategy",
            "false_names": "rlhf_game.simulations.strategies:FalseNamesStrategy",
        },
    }
)
_RECIPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reward_models": "rlhf_game.training.recipes.reward_metrics:train_reward_models",
        "osp": "rlhf_game.training.recipes.osp_rounds:train_osp",
        "seft": "rlhf_game.training.recipes.seft_stages:train_seft",
    }
)
"""Of each recipe of several stages, the function of a configuration and a task that trains by it."""
_registered: dict[tuple[str, str], type] = {}
_IS_REFUSED: Final = ContextVar("is_refused", default=False)


def register(role: str, name: str) -> Callable[[Class], Class]:
    """Return a decorator that makes a class known by a name in this process: ``@register("payment", "half")``.

    role: regularizer, payment, training, space, strategy, scenario or train (a kind of training). Raises InputError
    when there is no such role, the name is taken or the class is none of the role's.
    """
    if not name.isidentifier():
        raise InputError(f"name must be letters, digits and underscores, got {name!r}")
    if name in names(role):
        raise InputError(f"name must be a new one, got {name!r}, which is a {role} already")

    def keep(part: Class) -> Class:
        _registered[role, name] = _checked(part, role, name)
        return part

    return keep


def names(role: str) -> list[str]:
    """Return the names that are known of a role, those of installed packages included; raise InputError without it."""
    if role not in _PLACES:
        raise InputError(f"role must be one of {', '.join(_PLACES)}, got {role!r}")
    here = [name for of, name in _registered if of == role]
    return [*_PLACES[role], *here, *(name for of, name in _entry_points() if of in ("", role))]


def is_built_in(role: str, name: str) -> bool:
    """Return whether a name is one of this package's own."""
    return name in _PLACES[role]


def registered(role: str, name: str) -> type | None:
    """Return the class that has been registered in this process by a name, None where there is none."""
    return _registered.get((role, name))


def is_code(role: str, name: str) -> bool:
    """Return whether a name is a place in someone's code, rather than one that is registered or installed."""
    return ":" in name and name not in names(role)


def find(role: str, name: str, base: Path | None = None) -> type:
    """Return the class that a name stands for. base: the folder that paths start from, default the current one.

    Raises InputError when there is none, or it is no subclass of the role's class, and RunError when its code fails.
    """
    if (role, name) in _registered:
        return _registered[role, name]
    known = _PLACES.get(role, {}).get(name)
    if known is not None:
        return _checked(_named(_module(known), known), role, name)
    point = _entry_point(role, name)
    if point is not None:
        return _checked(_named(_module(point.value), point.value), role, name)
    if ":" not in name:
        raise InputError(
            f"must be {', '.join(names(role))}, path/to/file.py:Name or package.module:Name, found {name!r}"
        )
    return _checked(load(name, base), role, name)


def recipe(name: str) -> Callable[[Any, Any], dict[str, Any]]:
    """Return the function that trains by a recipe: of a configuration and its task, it returns the metrics."""
    found: Callable[[Any, Any], dict[str, Any]] = _named(_module(_RECIPES[name]), _RECIPES[name])
    return found


def load(target: str, base: Path | None = None) -> Any:
    """Return what ``package.module:name`` or ``path/to/file.py:name`` is called; modules beside ``base`` come first.

    A file can import the modules of its own folder. Raises InputError when there is no such module, file or name, or
    code is refused (see ``refusing_code``), and RunError when the code fails.
    """
    if _IS_REFUSED.get():
        raise InputError(
            f"{target}: must be trusted to be run, found code in what somebody wrote (--trust-code lets it)"
        )
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise InputError(f"must be package.module:Name or path/to/file.py:Name, found {target!r}")
    file = source_file(target, base)
    if file is None or (not place.endswith(".py") and _origin(place) == file.resolve()):
        return _named(_module(target), target)
    return _named(_run(file.resolve()), target)


@contextmanager
def refusing_code(*, unless: bool = False) -> Iterator[None]:
    """Let nothing be run that a file names as code, unless it is trusted; what is registered or installed may be."""
    before = _IS_REFUSED.set(not unless)
    try:
        yield
    finally:
        _IS_REFUSED.reset(before)


def source_file(target: str, base: Path | None = None) -> Path | None:
    """Return the file that a target is in, None where its module is found by Python's own path; raise InputError."""
    place = target.rpartition(":")[0]
    path = (base or Path()) / (place if place.endswith(".py") else place.replace(".", "/") + ".py")
    if path.is_file():
        return path
    if place.endswith(".py"):
        raise InputError(f"must name a file that exists, found none at {path}")
    return None


def source_of(target: str, base: Path | None = None) -> "PartSource":
    """Return what decides what ``target`` does, without running it; raise InputError when there is nothing to read."""
    file = source_file(target, base)
    if file is None:
        return _source_of_module(target.rpartition(":")[0], {})
    return PartSource(digests_of(file.resolve()), file.resolve().parent)


def source_of_part(role: str, name: str, base: Path | None = None) -> "PartSource | None":
    """Return what decides what a part does, as ``source_of`` does; None of one of this package or of this process."""
    if name in _PLACES[role] or (role, name) in _registered:
        return None
    point = _entry_point(role, name)
    if point is None:
        return source_of(name, base)
    brought = {} if point.dist is None else {point.dist.name: point.dist.version}
    return _source_of_module(point.module, brought)


@final
@dataclass(frozen=True)
class PartSource:
    """What decides what a part does: its file, the modules that this imports beside it, and who installed it."""

    files: Mapping[str, str]
    """SHA-256 of the files, by path from the part's folder (in a package: from the package's); of what is installed
    also the version of each distribution that brings it, by name."""
    folder: Path | None
    """The folder of a part that was found by its file, None where Python found its module."""

    def document(self, base: Path | None = None) -> dict[str, str]:
        """Return the digests in order: what belongs into an identity. base: what paths start from, where it is given.

        What Python found is called as it is there, wherever that is.
        """
        if base is None or self.folder is None:
            return dict(sorted(self.files.items()))
        here = base.resolve()
        return dict(sorted((os.path.relpath(self.folder / file, here), sha256) for file, sha256 in self.files.items()))


def _checked(part: Any, role: str, name: str) -> type:
    if role == "strategy":
        if isinstance(part, type) and any({"__call__", "reports"} & vars(base).keys() for base in part.__mro__):
            return part
        raise InputError(f"must be a class with __call__(group, world, rng), found {name!r}, which is {part!r}")
    base = _named(_module(_BASES[role]), _BASES[role])
    if not (isinstance(part, type) and issubclass(part, base)):
        raise InputError(f"must be a subclass of {base.__name__}, found {name!r}, which is {part!r}")
    return part


@cache
def _entry_points() -> Mapping[tuple[str, str], EntryPoint]:
    """Return the parts of installed packages, by role ("" for any) and name."""
    found = {}
    for point in entry_points(group=GROUP):
        role, dot, name = point.name.rpartition(".")
        found[role if dot else "", name] = point
    return found


def _entry_point(role: str, name: str) -> EntryPoint | None:
    return _entry_points().get((role, name)) or _entry_points().get(("", name))


def _spec(place: str) -> ModuleSpec | None:
    """Return where Python's own path leads to; raise RunError when a package on the way cannot be imported."""
    with boundary(f"{place} cannot be imported"):
        try:
            return find_spec(place)
        except (ImportError, ValueError, AttributeError):
            return None


def _origin(place: str) -> Path | None:
    """Return the source of a module that Python's own path leads to."""
    return _source(_spec(place))


def _source(spec: ModuleSpec | None) -> Path | None:
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).resolve()


def _source_of_module(place: str, brought: Mapping[str, str]) -> PartSource:
    """Return the source of a module; brought: the distribution that is known to bring it, {} where none is.

    A distribution speaks for what its version says; beside it only the module's own package is read, as far as it can.
    """
    top = place.partition(".")[0]
    brought = brought or {name: version(name) for name in packages_distributions().get(top, ())}
    spec = _spec(place)
    file = _source(spec)
    if file is None and not brought:
        raise InputError(f"must name a module with a source, found none called {place}")
    files = {} if file is None or spec is None else digests_of(file, spec.parent or "", alone=bool(brought))
    return PartSource({**files, **brought}, None)


def _named(module: ModuleType, target: str) -> Any:
    place, _, name = target.rpartition(":")
    with boundary(f"{target} cannot be read"):
        try:
            return getattr(module, name)
        except AttributeError:
            raise InputError(f"must name something there is, found none called {name!r} in {place}") from None


def _module(target: str) -> ModuleType:
    """Return the module of a target, found by Python's own path."""
    place = target.rpartition(":")[0]
    with boundary(f"{place} cannot be imported"):
        try:
            return import_module(place)
        except ModuleNotFoundError as error:
            if error.name is not None and (place == error.name or place.startswith(error.name + ".")):
                raise InputError(f"must name a module, found no {place} installed and no file of that name") from error
            raise


@cache
def _run_once(path: Path, digests: tuple[tuple[str, str], ...]) -> ModuleType:
    """Return the module of a file; digests: of it and of what it imports, so that it is run anew when they change."""
    key = hashlib.sha256(repr((str(path), digests)).encode()).hexdigest()[:16]
    spec = spec_from_file_location(f"rlhf_game_part_{key}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"must name a Python file, found {path}")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        with boundary(f"{path} cannot be run"), _siblings(path.parent):
            spec.loader.exec_module(module)
    except RlhfGameError:
        del sys.modules[spec.name]
        raise
    return module


def _run(path: Path) -> ModuleType:
    return _run_once(path, tuple(sorted(digests_of(path).items())))


@final
class _Folder:
    """Finds the modules of one folder, before all others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module of that name beside the part, None where there is none."""
        return PathFinder.find_spec(name, [str(self._folder)]) if path is None and "." not in name else None


@contextmanager
def _siblings(folder: Path) -> Iterator[None]:
    """Let imports find the modules of a folder first; other modules of these names are put back afterwards."""
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    own -= sys.stdlib_module_names
    aside = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
    for name in aside:
        del sys.modules[name]
    finder: Any = _Folder(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]
        sys.modules.update(aside)


def package_of(value: Any) -> str:
    """Return the package that a class or a function was imported in, "" where it is in none."""
    return getattr(sys.modules.get(getattr(value, "__module__", "")), "__package__", None) or ""


def digests_of(file: Path, package: str = "", *, alone: bool = False) -> dict[str, str]:
    """Return the SHA-256 of a file and of every module beside it that it imports, also indirectly, by path.

    package: of which the file is a module; then all that it imports of its outermost package, with what Python runs on
    the way there. alone: a module without a package is read without what lies beside it, where others' modules are.
    """
    depth = len(package.split(".")) if package else 0
    folder = file.parents[depth]
    inside = folder / package.partition(".")[0] if package else file if alone else folder
    found, waiting = dict[str, str](), [file, *(file.parents[k] / "__init__.py" for k in range(depth))]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(folder).as_posix()
        if name in found or not path.is_file():
            continue
        content = path.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
        waiting += [one for one in _imported(content, path, folder) if one.is_relative_to(inside)]
    return found


def _imported(content: bytes, path: Path, folder: Path) -> list[Path]:
    """Return the files below ``folder`` that a module imports; none where it cannot be parsed (running it says why)."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    wanted: list[tuple[Path, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [(folder, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = folder if node.level == 0 else path.parents[node.level - 1]
            module = node.module or ""
            wanted += [(start, module), *((start, f"{module}.{alias.name}".strip(".")) for alias in node.names)]
    found = []
    for start, module in wanted:
        parts = module.split(".") if module else []
        for depth in range(len(parts) + 1):
            place = start.joinpath(*parts[:depth])
            beside = [place.with_suffix(".py")] if depth else []
            found += [one for one in (*beside, place / "__init__.py") if one.is_file() and one.is_relative_to(folder)]
    return found
