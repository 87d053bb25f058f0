"""The JSON Schemas: every example and starting file is valid, and files with a wrong form are not."""

import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rlhf_game.cli.schema import SchemaKind, schema_of
from rlhf_game.files.documents import parse_yaml
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from tests.cli.runner import run
from tests.cli.test_malformed import DOCUMENTS, game

ROOT = Path(__file__).resolve().parents[2]
RUNS = ("run_smollm2", "run_trie", "finetuned", "prompts", "draws", "given")
TRAININGS = ("reward_model", "ensemble", "warm", "elastic_reset", "eso", "dpo", "osp", "seft", "distill")
EXAMPLES = {
    SchemaKind.GAME: sorted((ROOT / "examples" / "games").glob("*.yaml")),
    SchemaKind.RUN: [path for name in RUNS if (path := ROOT / "examples" / f"{name}.yaml").exists()],
    SchemaKind.TRAIN: [ROOT / "examples" / f"{name}.yaml" for name in TRAININGS],
    SchemaKind.SIMULATE: [ROOT / "examples" / f"{name}.yaml" for name in ("market", "sweep")],
    SchemaKind.DISCOVER: [ROOT / "examples" / "discover.yaml"],
}
UNSEEN = {
    "strength huge", "alpha one", "alpha nothing", "alpha infinite", "revenue, no domain", "reference sum",
    "reference sum off by 2e-6", "reference negative", "reward short", "reward nested", "reward off sum",
    "reward off max", "reward below 0", "reward overflow", "name twice", "weights stranger", "boosts short",
    "outcomes short", "outcomes twice", "prompt weights", "prompt weights zero", "size limit", "menu short",
    "menu outcomes", "automaton state", "automaton ragged", "automaton initial", "automaton row", "automaton shape",
    "automaton revenue",
}  # fmt: skip
"""Malformed games whose fault only numbers show; those with a file of their own are seen only when it is read."""


@cache
def validator_of(of: SchemaKind) -> Draft202012Validator:
    return Draft202012Validator(schema_of(of))


def valid(of: SchemaKind, document: Any) -> bool:
    return bool(validator_of(of).is_valid(document))


@pytest.mark.parametrize("of", list(SchemaKind))
def test_every_example_and_starting_file_is_valid(of: SchemaKind) -> None:
    validator = validator_of(of)
    Draft202012Validator.check_schema(validator.schema)
    for path in [*EXAMPLES[of], ROOT / "rlhf_game" / "cli" / "starters" / f"{of.value}.yaml"]:
        document = parse_yaml(path.read_text(), path.name)
        assert [error.message[:200] for error in validator.iter_errors(document)] == [], path.name


@pytest.mark.parametrize("of", list(SchemaKind))
def test_what_no_file_may_say_is_not_valid(of: SchemaKind) -> None:
    for path in EXAMPLES[of]:
        document = parse_yaml(path.read_text(), path.name)
        assert not valid(of, {**document, "no_such_key": 1}), path.name
        for key in ("strength", "games", "generations", "kind", "space", "seed", "horizon", "model"):
            if key in document:
                assert not valid(of, {**document, key: []}), (path.name, key)
        assert not valid(of, [document])


def test_malformed_games_are_not_valid_where_their_form_is_wrong() -> None:
    """Of all games that the command refuses the schema refuses those whose fault is not in the numbers."""
    validator = validator_of(SchemaKind.GAME)
    accepted = [name for name, document, _ in DOCUMENTS if validator.is_valid(json.loads(json.dumps(document)))]
    assert len(accepted) < len(DOCUMENTS) / 2
    assert {name for name in accepted if not name.startswith("file, ")} <= UNSEEN


def mappings(of: Any) -> Iterator[dict[str, Any]]:
    yield from (of,) if isinstance(of, dict) else ()
    for one in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
        yield from mappings(one)


@pytest.mark.parametrize("of", list(SchemaKind))
def test_every_field_says_what_it_is_and_nothing_is_called_by_its_class(of: SchemaKind) -> None:
    """Editors showed ``TableFields`` as a title, and a quarter of the fields said what they are."""
    schema = schema_of(of)
    names = set(schema["$defs"])
    for place in mappings(schema):
        assert place.get("title") not in names
        fields = place.get("properties")
        for name, field in fields.items() if isinstance(fields, dict) else ():
            while "description" not in field and str(field.get("$ref", "")).endswith(f"/properties/{name}"):
                _, _, part, _, name = field["$ref"].split("/")
                field = schema["$defs"][part]["properties"][name]
            assert field.get("description", "").strip(), (of, name)


def test_what_a_field_is_stands_below_it_in_the_source() -> None:
    run = schema_of(SchemaKind.RUN)
    assert run["properties"]["seed"]["description"] == "Of everything that comes before the reports."
    draws = run["$defs"]["DrawsSpec"]
    assert (draws["title"], draws["properties"]["draws"]["description"]) == ("draws", "T, of each prompt.")
    assert draws["properties"]["kind"]["description"] == draws["description"] == inspect.getdoc(DrawsSpec)
    trained = schema_of(SchemaKind.TRAIN)["$defs"]["ReviserTraining"]["properties"]  # with a default of its own
    assert trained["warmup"]["description"] == "Share of the steps in which the learning rate rises."


@pytest.mark.parametrize(
    ("reward", "is_right"),
    [
        ("sentiment", True),
        ({"python": "mine.py:f"}, True),
        ({"hf": "folder"}, True),
        ({"kind": "brevity", "words": 30}, True),
        ({"mix": [{"reward": "clean"}, {"reward": {"similarity": "x"}, "weight": 2}]}, True),
        ("sentimental", False),
        ({"kind": "nothing"}, False),
        ({"pyton": "mine.py:f"}, False),
        ({"hf": "folder", "truncate": "tail"}, True),
        ({"hf": "folder", "trunkate": "tail"}, False),
        ({"hf": 7}, False),
        ({"judge": {"model": "m", "instruction": "Grade it."}}, True),
        ({"judge": {"model": "m"}}, False),
        ({"table": {"yes": 1.0}}, True),
        ({"table": {"values": {"yes": 1.0}, "default": 0.0}}, True),
        ({"table": {"yes": "much"}}, False),
        ({"brevity": {"words": 20}}, True),
        ({"mix": [{"reward": {"hf": "folder", "trunkate": "tail"}}]}, False),
        (7, False),
    ],
)
def test_rewards_in_short_and_long_forms(reward: Any, is_right: bool) -> None:
    document = parse_yaml((ROOT / "examples" / "run_smollm2.yaml").read_text(), "run")
    document["groups"][0] = {"name": "a", "reward": reward}
    assert valid(SchemaKind.RUN, document) is is_right


def test_the_command_prints_the_schema_and_files_may_name_it(tmp_path: Path) -> None:
    assert json.loads(run("schema", "game").out) == schema_of(SchemaKind.GAME)
    (tmp_path / "game.json").write_text(json.dumps({"$schema": "game.schema.json"} | game()))
    (tmp_path / "plain.json").write_text(json.dumps(game()))
    named, plain = (json.loads(run("settle", tmp_path / name, "--json").out) for name in ("game.json", "plain.json"))
    assert named == plain
    assert run("schema", "nothing").code == 2
