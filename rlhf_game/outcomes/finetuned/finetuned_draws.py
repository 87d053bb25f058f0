"""Draws of the reference, before anything is trained, and of every policy that payments ask for: samples.parquet."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from rlhf_game.engines import Devices, Engine, Serial
from rlhf_game.errors import InputError
from rlhf_game.files.policies import folder_digest
from rlhf_game.files.run_folder import Progress, RunFolder, parquet_bytes, read_parquet
from rlhf_game.files.sampled import FINAL, REFERENCE
from rlhf_game.optimization import place_of_model
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.finetuned.finetuned_training import (
    DoneTraining,
    TrainingTask,
    further_tasks,
    main_task,
    make,
    own_tasks,
    policy_training,
    spec_of,
)
from rlhf_game.outcomes.generation import check_resumed, drawn_provenance, identity_of
from rlhf_game.outcomes.run_config import Configuration, GenerationInputs
from rlhf_game.outcomes.served_draws import ServerSpec, drawn_batch
from rlhf_game.outcomes.settlement_seed import settlement_seed

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling

BATCH = 64
"""Sequences that are drawn at a time."""
MODEL = Path("policy") / "model"
"""Where a run keeps the weights that it delivers."""
TRAININGS = "trainings"
"""Where a run keeps the policies that no other run may take."""
COST = "cost.json"
"""The seconds of each training and where its policy is: what differs when a run is repeated, in no other file."""
Loader: TypeAlias = "Callable[[], LanguageModel]"
Rows: TypeAlias = list[dict[str, Any]]


def samples_file(folder: RunFolder) -> Path:
    """Return where the draws are kept."""
    return folder.path / "samples.parquet"


def draw(configuration: Configuration, folder: RunFolder, watch: Progress, engine: Engine) -> None:
    """Write samples.parquet: draw from the reference, train, draw from what was trained.

    Pieces of an interrupted run are used. The reference is drawn from before any reward is called, and with a seed that
    no report was made for. Raises InputError and RunError as the trainings do.
    """
    if samples_file(folder).exists():
        return
    spec = spec_of(configuration)
    reference = load_reference(configuration.source, watch)
    origin = drawn_provenance(configuration.source, identity_of(configuration.source, reference))
    origin["settlement_seed"], origin["seed_from"] = settlement_seed(configuration, folder)
    check_resumed(folder, origin)
    sampling = policy_training(main_task(configuration, spec, folder.path)).sampling
    sampler = Sampler(
        configuration.source, origin["settlement_seed"], spec.samples, spec.draws_that_choose, sampling, reference,
        folder, watch,
        {REFERENCE if name == "reference" else FINAL: server for name, server in spec.servers.items()},
    )  # fmt: skip
    rows = sampler.draw(0, REFERENCE, lambda: reference)
    made: list[DoneTraining] = []
    if spec.policy is not None:
        given = partial(load_given, configuration.source, spec.policy, reference)
        loaders: Iterable[tuple[str, Loader]] = [(FINAL, given)]
        weights = folder_digest(place_of_policy(configuration.source, spec, folder))
    elif spec.payments_from == "soups":
        made = _train(own_tasks(configuration, spec, folder.path / TRAININGS), watch, engine)
        loaders = soups(reference, made, spec.grid)
        weights = None
    else:
        made = _train([main_task(configuration, spec, folder.path / "policy")], watch, Serial())
        made += _train(further_tasks(configuration, spec, folder.path / TRAININGS), watch, engine)
        loaders = [(label, partial(_load_trained, place)) for label, place in _places(made)]
        weights = folder_digest(place_of_policy(configuration.source, spec, folder))
    for number, (label, load) in enumerate(loaders, start=1):
        rows += sampler.draw(number, label, load)
    took = [{"of": one.label, "seconds": one.seconds, "folder": _named(one.folder, folder.path)} for one in made]
    folder.workspace.write_json(folder.path / COST, {"trainings": took})
    done = [{"of": one.label, "steps": one.steps, "tokens": one.tokens} for one in made]
    origin |= {"policy_sha256": weights, "trainings": done}
    columns = {name: [row[name] for row in rows] for name in rows[-1]}
    folder.write(samples_file(folder), parquet_bytes(columns, origin))
    folder.drop_parts()


def soups(reference: "LanguageModel", made: Sequence[DoneTraining], grid: int) -> Iterator[tuple[str, Loader]]:
    """Yield every interpolation of the groups' own policies: its label, and how to get it.

    The grid is fixed in the configuration; what it interpolates depends on the groups' reports.
    """
    from rlhf_game.training_backends.lm.soups import interpolate, simplex_grid
    from rlhf_game.training_backends.trainers.policies import load_policy

    device = str(reference.model.device)
    members = [load_policy(Path(one.folder), device=device) for one in made]
    for shares in simplex_grid(len(made), grid):
        label = "soup " + " ".join(f"{share:g}" for share in shares)
        yield label, partial(interpolate, reference, members, shares)


def place_of_policy(source: GenerationInputs, spec: FinetunedSpec, folder: RunFolder) -> Path:
    """Return the folder of the weights that are delivered: in the run's folder, or where they were given."""
    if spec.policy is None:
        return folder.path / MODEL
    from rlhf_game.training_backends.lm.checkpoints import model_folder

    return model_folder(spec.policy, source.base).resolve()


def check_policy(place: Path, folder: RunFolder, origin: Mapping[str, Any]) -> None:
    """Raise InputError when the weights at a place are not those that were drawn from."""
    expected = origin["policy_sha256"]
    if expected is not None and folder_digest(place) != expected:
        raise InputError(
            f"{place}: must hold the weights that this run drew from, found others; delete {samples_file(folder).name} "
            "and the policy to make them anew"
        )


def read_samples(folder: RunFolder) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of samples.parquet and where they come from."""
    return read_parquet(samples_file(folder))


def _train(tasks: Sequence[TrainingTask], watch: Progress, engine: Engine) -> list[DoneTraining]:
    """Do trainings; those that this process does tell how far they are."""
    if isinstance(engine, Serial):
        return [make(task, watch) for task in tasks]
    watch(f"train {len(tasks)} policies", 0, len(tasks))
    return list(engine.map(make, tasks))


def side_by_side() -> Engine:
    """Return what does trainings that do not need each other, unless said: a process for each GPU if there are more."""
    from rlhf_game.training_backends.lm.soups import devices

    found = devices()
    return Serial() if len(found) < 2 else Devices(found)


def _named(place: str, folder: Path) -> str:
    """Return a path from the run's folder if it is in it, so that the folder can be moved."""
    path = Path(place).resolve()
    return str(path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else path)


def _places(made: Sequence[DoneTraining]) -> list[tuple[str, str]]:
    found = []
    for one in made:
        found += [*one.checkpoints, (one.label, one.folder)]
    return found


def _load_trained(folder: str) -> "LanguageModel":
    from rlhf_game.training_backends.trainers.policies import load_policy

    return load_policy(Path(folder))


def load_given(source: GenerationInputs, policy: str, reference: "LanguageModel") -> "LanguageModel":
    """Return a policy that somebody trained, asked as the reference is."""
    from rlhf_game.training_backends.trainers.policies import load_beside

    backbone = (place_of_model(str(source.model.name), source.base), source.model.revision)
    return load_beside(source.base / Path(policy).expanduser(), reference, backbone)


def load_reference(source: GenerationInputs, watch: Progress) -> "LanguageModel":
    """Return the reference, in float32 like all that is drawn from."""
    from rlhf_game.training_backends import load_language_model

    watch("load the language model", 0, 1)
    named = source.model
    model = load_language_model(
        named.name, revision=named.revision, device=named.device, base=source.base, folds_system=named.fold_system
    )
    watch("load the language model", 1, 1)
    return model


@final
@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws from policies, with the log probability of each draw under the reference too, piece by piece."""

    source: GenerationInputs
    seed: int
    """Of the settlement: the same random numbers for every policy."""
    samples: int
    """For each prompt, of every policy."""
    choosing: int
    """After them, of the reference and of the final policy."""
    sampling: "Sampling"
    reference: "LanguageModel"
    folder: RunFolder
    watch: Progress
    servers: Mapping[str, ServerSpec]
    """What generates the draws of the reference or the final policy elsewhere."""

    def draw(self, number: int, label: str, load: Loader) -> Rows:
        """Return the draws of a policy, loaded only if a piece is missing. number: of the policy, from 0."""
        from rlhf_game.training_backends.lm.sampling import log_probabilities, plan_batches

        encoded = self._encoded()
        per_prompt = self.samples + (self.choosing if label in (REFERENCE, FINAL) else 0)
        batches = plan_batches([len(ids) for ids in encoded], per_prompt, BATCH)
        model = None
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for k, batch in enumerate(batches):
            self.watch(f"draw from {label}", k, len(batches))
            part = self.folder.part(f"draws-{number:04d}", k)
            piece = part.read()
            if piece is None:
                model = load() if model is None else model
                server = self.servers.get(label)
                samples = drawn_batch(server, model, encoded, batch, seed=self.seed, sampling=self.sampling)
                piece = [asdict(sample) for sample in samples]
                prompts, responses = [encoded[b] for b, _ in batch], [list(one["token_ids"]) for one in piece]
                log_reference = (
                    [one["log_probability"] for one in piece]
                    if label == REFERENCE
                    else log_probabilities(self.reference, prompts, responses, sampling=self.sampling).tolist()
                )
                for one, score in zip(piece, log_reference, strict=True):
                    one["log_reference"] = score
                part.write(piece)
            found.update(zip(batch, piece, strict=True))
        self.watch(f"draw from {label}", len(batches), len(batches))
        return [
            {
                "policy": label,
                "prompt": b,
                "prompt_text": str(self.source.prompts[b]),
                "draw": j,
                **found[b, j],
            }
            for b in range(len(encoded))
            for j in range(per_prompt)
        ]

    def _encoded(self) -> list[list[int]]:
        return self.reference.encode_prompts(self.source.prompts, self.source.system)
