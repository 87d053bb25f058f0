"""``--set path=value``: one field of a configuration, typed as YAML is; what is wrong with it is one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from rlhf_game import InputError
from rlhf_game.cli.app import _app
from rlhf_game.discovery import read_discovery
from rlhf_game.files.settings import changed, set_fields, steps
from rlhf_game.outcomes import read_config
from rlhf_game.simulations.study import read_study
from rlhf_game.training import read_training
from tests.cli.runner import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DOCUMENT = {"strength": 1, "groups": [{"name": "a", "size": 1}, {"name": "b"}], "weights": {"a b": 1.0}}


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("strength", ["strength"]),
        ("groups[1].size", ["groups", 1, "size"]),
        ("a.b_c[0][2].d", ["a", "b_c", 0, 2, "d"]),
        ("weights.'a b.c'", ["weights", "a b.c"]),
        ("'x'[0]", ["x", 0]),
        ("", []),
        (".a", []),
        ("a.", []),
        ("a..b", []),
        ("a.[0]", []),
        ("a b", []),
        ("a-b", []),
        ("a[-1]", []),
        ("a[x]", []),
        ("a'b'", []),
        ("[9999999999]", []),
    ],
)
def test_paths(field: str, path: list[Any]) -> None:
    assert steps(field) == path


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("strength=0.25", ("strength",), 0.25),
        ("strength=2", ("strength",), 2),
        ("groups[1].size=3", ("groups", 1, "size"), 3),
        ("groups[0].name=yes", ("groups", 0, "name"), "yes"),
        ("groups[0].name='3'", ("groups", 0, "name"), "3"),
        ("groups[0].name=a=b", ("groups", 0, "name"), "a=b"),
        ("system=null", ("system",), None),
        ("system=", ("system",), None),
        ("weights.'a b'=2.0", ("weights", "a b"), 2.0),
        ("outcomes={kind: trie, mass: 0.9}", ("outcomes",), {"kind": "trie", "mass": 0.9}),
        ("prompts=[one, two]", ("prompts",), ["one", "two"]),
        ("debug=true", ("debug",), True),
    ],
)
def test_values_are_yaml(setting: str, place: tuple[Any, ...], value: Any) -> None:
    before = json.dumps(DOCUMENT)
    found: Any = set_fields(DOCUMENT, [setting], "c.yaml")
    for step in place:
        found = found[step]
    assert found == value
    assert type(found) is type(value)
    assert json.dumps(DOCUMENT) == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("strength", "--set strength: must be PATH=VALUE such as strength=0.2 or groups[0].size=3, found no path"),
        ("=3", "--set : must be PATH=VALUE"),
        ("a b=3", "--set a b: must be PATH=VALUE"),
        ("groups[2].size=3", "--set groups[2].size: must be a field such as strength or groups[0].size, found no such"),
        ("strength.x=3", "--set strength.x: must be a field such as"),
        ("groups.x=3", "--set groups.x: must be a field such as"),
        ("trl.use_vllm=true", "--set trl.use_vllm: must be a field such as"),
        ("strength=[1, 2", "--set strength: must be YAML, found"),
        ("strength=*a", "--set strength: line 1: must be plain YAML, found an alias"),
        ("strength=!!float 1", "--set strength: line 1: must be plain YAML, found the tag"),
        ("strength=\ud800", "--set strength: must be"),
    ],
)
def test_what_is_wrong_is_one_line(setting: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        set_fields(DOCUMENT, [setting], "c.yaml")
    assert str(caught.value).startswith("c.yaml: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_follow_each_other_and_what_is_not_set_stays() -> None:
    found = set_fields(DOCUMENT, ["groups=[{name: z}]", "groups[0].size=2"], "c.yaml")
    assert found["groups"] == [{"name": "z", "size": 2}]
    assert found["strength"] == 1
    assert changed(DOCUMENT, {}, "x") == DOCUMENT


def test_every_kind_of_configuration_takes_settings(tmp_path: Path) -> None:
    run_config = read_config(EXAMPLES / "given.yaml", ["groups[0].size=7", "strength=0.125"])
    assert (run_config.fields.groups[0].size, run_config.fields.strength) == (7, 0.125)
    assert read_study(EXAMPLES / "sweep.yaml", ["games=3"]).points[0].fields.games == 3
    assert read_discovery(EXAMPLES / "discover.yaml", ["seed=11"]).fields.seed == 11
    config = tmp_path / "c.yaml"
    config.write_text("kind: policy\nmodel: m\nprompts: [a]\nstrength: 1\ngroups: [{name: a, reward: {brevity: 5}}]\n")
    assert read_training(config, ["steps=4"]).document()["steps"] == 4


def test_a_run_with_a_setting_is_the_run_that_says_so_itself(tmp_path: Path) -> None:
    """And the folder is bound to it: the same run without it goes elsewhere."""
    first = run("run", EXAMPLES / "given.yaml", "-o", tmp_path / "a", "--json", "--set", "groups[0].size=7")
    assert (first.code, first.err) == (0, "")
    text = (EXAMPLES / "given.yaml").read_text().replace("size: 3", "size: 7")
    (tmp_path / "given.yaml").write_text(text)
    (tmp_path / "given.jsonl").write_bytes((EXAMPLES / "given.jsonl").read_bytes())
    second = run("run", tmp_path / "given.yaml", "-o", tmp_path / "b", "--json")
    receipts = [json.loads(result.out) for result in (first, second)]
    assert receipts[0]["groups"] == receipts[1]["groups"]
    assert receipts[0]["groups"][0]["size"] == 7
    refused = run("run", EXAMPLES / "given.yaml", "-o", tmp_path / "a")
    assert (refused.code, refused.out) == (2, "")
    assert "groups[0].size: must be 7" in refused.err


@pytest.mark.parametrize("command", ["run", "train", "discover", "simulate"])
def test_a_wrong_setting_is_refused_before_anything_is_made(tmp_path: Path, command: str) -> None:
    example = {"run": "given", "train": "dpo", "discover": "discover", "simulate": "sweep"}[command]
    for setting, said in (("nothing[0]=1", "--set nothing[0]: must be a field such as"), ("x", "must be PATH=VALUE")):
        result = run(command, EXAMPLES / f"{example}.yaml", "-o", tmp_path / "out", "--set", setting)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    result = run(command, EXAMPLES / f"{example}.yaml", "-o", tmp_path / "out", "--set", "seed=-1")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "seed: must be greater than or equal to 0, found -1" in result.err
    assert not (tmp_path / "out").exists()


GAME = EXAMPLES / "games" / "table.yaml"


def test_a_game_with_a_setting_is_the_game_that_says_so_itself(tmp_path: Path) -> None:
    """settle, verify and audit read it alike; without the setting the receipt is another game's."""
    receipt = tmp_path / "r.json"
    first = run("settle", GAME, "--json", "-o", receipt, "--set", "strength=0.25")
    document = yaml.safe_load(GAME.read_text()) | {"strength": 0.25}
    changed_game = tmp_path / "game.yaml"
    changed_game.write_text(yaml.safe_dump(document))
    assert (first.code, first.out) == (0, run("settle", changed_game, "--json").out)
    assert run("verify", receipt, changed_game).code == 0
    assert run("verify", receipt, GAME, "--set", "strength=0.25").code == 0
    assert run("verify", receipt, GAME).code == 3
    audits = [
        run("audit", game, "--json", "--starts", "2", *setting).out
        for game, setting in ((GAME, ["--set", "strength=0.25"]), (changed_game, []))
    ]
    assert audits[0] == audits[1]


@pytest.mark.parametrize("command", ["settle", "audit"])
def test_a_wrong_setting_of_a_game_is_refused(command: str) -> None:
    for setting, said in (("groups[9].size=1", "--set groups[9].size: must be a field"), ("strength=-1", "strength: ")):
        result = run(command, GAME, "--set", setting)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err


def test_every_command_that_reads_a_configuration_has_it() -> None:
    """Found by what their arguments are called: a game, a configuration or a scenario."""
    group: Any = get_command(_app())
    reads = {
        name: {option for one in command.params for option in one.opts}
        for name, command in group.commands.items()
        if any(
            re.search("GAME|CONFIG|SCENARIO", one.metavar or "")
            for one in command.params
            if one.param_type_name == "argument"
        )
    }
    assert {"settle", "audit", "verify", "run", "train", "discover", "simulate", "seal", "open", "receipt"} <= set(
        reads
    )
    assert [name for name, options in reads.items() if "--set" not in options] == []


def test_what_is_sealed_with_a_setting_is_opened_and_billed_with_it(tmp_path: Path) -> None:
    seal, own, other = (tmp_path / name for name in ("seal.json", "own.json", "other.json"))
    document = yaml.safe_load(GAME.read_text())
    name, changed_game = document["groups"][0]["name"], tmp_path / "game.yaml"
    document["groups"][0]["size"] = 7
    changed_game.write_text(yaml.safe_dump(document))
    setting = ("--set", "groups[0].size=7")
    assert run("seal", GAME, "-o", seal, *setting).code == 0
    assert run("open", seal, GAME, *setting).code == run("open", seal, changed_game).code == 0
    assert run("open", seal, GAME).code == 3
    assert run("receipt", GAME, "--for", name, "-o", own, *setting).code == 0
    assert run("receipt", changed_game, "--for", name, "-o", other).code == 0
    assert own.read_bytes() == other.read_bytes()
    assert run("export", GAME, "-o", tmp_path / "g.nfg", *setting).code == 0
    refused = run("export", "trl", EXAMPLES / "given.yaml", "-o", tmp_path / "trl", *setting)
    assert (refused.code, "must say itself what --set does" in refused.err) == (2, True)
    refused = run("receipt", tmp_path, "--for", name, "-o", other, *setting)
    assert (refused.code, "must be a" in refused.err) == (2, True)
