"""Every wrong file is one line on stderr that names the file, the field and what was found, and exit code 2."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.runner import run

A = {"name": "a", "size": 1, "reward": [1, 0]}
B = {"name": "b", "size": 2, "reward": [0, 1]}


def game(**changes: Any) -> dict[str, Any]:
    document = {"reference": [0.5, 0.5], "strength": 1, "groups": [A, B]} | changes
    return {key: value for key, value in document.items() if value is not None}


def group(**changes: Any) -> dict[str, Any]:
    return game(groups=[A, B | changes])


def automaton(**changes: Any) -> dict[str, Any]:
    rewards = [{"name": "a", "size": 1, "reward": [[1, 0], [0, 1]]}]
    document = {"space": "automaton", "next_state": [[0, 1], [1, -1]], "reference": [[0.5, 0.5], [0.2, 0.8]]}
    return document | {"horizon": 3, "strength": 1, "groups": rewards} | changes


MENU = {"space": "menu", "groups": [A, B]}

DOCUMENTS: list[tuple[str, Any, str]] = [
    ("a list", [1], "must be a mapping"),
    ("a text", "x", "must be a mapping"),
    ("null", None, "must be a mapping"),
    ("no groups", game(groups=None), "groups: must be given"),
    ("empty groups", game(groups=[]), "groups: must not be empty"),
    ("groups mapping", game(groups={"a": 1}), "groups: must be a list, found a mapping"),
    ("group text", game(groups=["a"]), 'groups[0]: must be a mapping, found the text "a"'),
    ("no reference", game(reference=None), "reference: must be given"),
    ("no strength", game(strength=None), "strength: must be given"),
    ("misspelt key", game(strenght=1), "strenght: must be one of the keys"),
    ("misspelt key, what it was to be", game(strenght=1), "; found another key, close to strength\n"),
    (
        "misspelt group key",
        game(groups=[A, {"name": "b", "rewrd": [1, 0]}]),
        "groups[1].rewrd: must not be here: unknown key, close to reward, found",
    ),
    ("unknown group key", group(weight=3), "groups[1].weight: must not be here: unknown key"),
    ("unknown space", game(space="tabel"), "space: must be table, menu, automaton or code (path"),
    ("space list", game(space=[]), "space: must be"),
    ("strength zero", game(strength=0), "strength: must be greater than 0, found 0"),
    ("strength negative", game(strength=-2.5), "strength: must be greater than 0, found -2.5"),
    ("strength text", game(strength="1"), 'strength: must be a number, found the text "1"'),
    ("strength boolean", game(strength=True), "strength: must be a number, found true"),
    ("strength huge", game(strength=10**399), "strength: must be a finite number, found inf"),
    ("regularizer", game(regularizer="tv"), "regularizer: must be kl, l2"),
    (
        "alpha one",
        game(regularizer="alpha:1"),
        "regularizer: must be kl, l2, reverse_kl, chi2, js, hellinger, alpha:A",
    ),
    ("alpha nothing", game(regularizer="alpha"), "regularizer: must be"),
    ("alpha infinite", game(regularizer="alpha:inf"), "regularizer: must be"),
    ("normalization", game(normalization="l1"), "normalization: must be 'none', 'sum' or 'max'"),
    ("payment", game(payment="vcg"), "payment: must be affine, none, revenue, "),
    ("revenue, no domain", game(payment="revenue"), "payment: revenue must come with normalization"),
    ("reference text", game(reference="q.npy"), "reference: must be a list of numbers"),
    ("reference empty", game(reference=[]), "reference: must not be empty"),
    ("reference row empty", game(reference=[[0.5, 0.5], []]), "reference[1]: must not be empty"),
    ("reference mixed", game(reference=[[1.0], 2]), "reference[1]: must be a list, found 2"),
    ("reference deep", game(reference=[[[1.0]]]), "reference[0][0]: must be a number, found a list of 1"),
    ("reference boolean", game(reference=[True, 0]), "reference[0]: must be a number, found true"),
    ("reference sum", game(reference=[0.5, 0.51]), "reference: must sum to 1"),
    ("reference sum off by 2e-6", game(reference=[0.5, 0.500002]), "reference: must sum to 1"),
    ("reference negative", game(reference=[1.5, -0.5]), "reference: must be >= 0"),
    ("reward short", group(reward=[1]), "groups[1].reward: must have 2 numbers, like the reference; found 1 number"),
    (
        "reward nested",
        group(reward=[[1, 0]]),
        "groups[1].reward: must have 2 numbers, like the reference; found 1 list of",
    ),
    ("reward text", group(reward=[1, "x"]), 'groups[1].reward[1]: must be a number, found the text "x"'),
    ("reward null", group(reward=[1, None]), "groups[1].reward[1]: must be a number, found nothing"),
    (
        "reward off sum",
        game(normalization="sum", groups=[A, B | {"reward": [1, 1]}]),
        "groups[1].reward: must have sum 1",
    ),
    (
        "reward off max",
        game(normalization="max", groups=[A, B | {"reward": [0, 2]}]),
        "groups[1].reward: must have max 1",
    ),
    ("reward below 0", game(normalization="sum", groups=[B | {"reward": [2, -1]}]), "groups[0].reward: must be >= 0"),
    ("reward overflow", group(reward=[1e308, -1e308], size=2**40), "groups[1].reward: must be at most 1e+140"),
    ("size zero", group(size=0), "groups[1].size: must be greater than or equal to 1, found 0"),
    ("size real", group(size=1.5), "groups[1].size: must be an integer, found 1.5"),
    ("size text", group(size="3"), 'groups[1].size: must be an integer, found the text "3"'),
    ("size boolean", group(size=True), "groups[1].size: must be an integer, found true"),
    ("size huge", group(size=10**30), "groups[1].size: must be less than or equal to 9007199254740992"),
    ("name twice", group(name="a"), "groups[1].name: must differ from the other names, found 'a' twice"),
    ("name empty", group(name=""), "groups[1].name: must not be empty"),
    ("name number", group(name=7), "groups[1].name: must be text (put it in quotes), found 7"),
    ("weights list", game(weights=[1, 2]), "weights: must be a mapping, found a list of 2"),
    ("weights stranger", game(weights={"c": 1}), "weights.c: must be the name of a group"),
    ("weights zero", game(weights={"a": 0}), "weights.a: must be greater than 0, found 0"),
    ("boosts short", game(boosts=[1]), "boosts: must have 2 numbers"),
    ("outcomes boolean", game(outcomes=[True, "b"]), "outcomes[0]: must be text (put it in quotes), found true"),
    ("outcomes short", game(outcomes=["x"]), "outcomes: must have 2 labels, one per outcome; found 1 label"),
    ("outcomes empty", game(outcomes=[]), "outcomes: must have 2 labels"),
    ("outcomes twice", game(outcomes=["x", "x"]), "outcomes: must name each outcome once, found 'x' 2 times"),
    ("prompt weights", game(prompt_weights=[0.5, 0.5]), "prompt_weights: must have one number per prompt (1), found 2"),
    ("prompt weight negative", game(prompt_weights=[-1]), "prompt_weights[0]: must be greater than or equal to 0"),
    ("prompt weights zero", game(prompt_weights=[0]), "prompt_weights: must be >= 0 with a sum > 0"),
    ("size limit", game(size_limit=1), "size_limit: must be at least the largest size (2), found 1"),
    ("menu with reference", MENU | {"reference": [0.5, 0.5]}, "reference: must be one of the keys"),
    ("menu divergence", MENU | {"divergence": [0, -1]}, "divergence[1]: must be greater than or equal to 0, found -1"),
    ("menu short", MENU | {"divergence": [0, 1, 2]}, "groups[0].reward: must have 3 numbers, like the menu"),
    ("menu outcomes", MENU | {"outcomes": ["x", "y", "z"], "divergence": [0, 1]}, "outcomes: must have 2 labels"),
    ("automaton horizon", automaton(horizon=0), "horizon: must be greater than or equal to 1, found 0"),
    (
        "automaton without end",
        automaton(horizon=1_000_001),
        "horizon: must be less than or equal to 1000000, found 1000001",
    ),
    (
        "automaton state",
        automaton(next_state=[[0, 2], [1, -1]]),
        "next_state[0][1]: must be a state (0 to 1) or -1, found 2",
    ),
    ("automaton ragged", automaton(next_state=[[0], [1, -1]]), "next_state: must have rows of one length"),
    ("automaton initial", automaton(initial=2), "initial: must be a state (0 to 1), found 2"),
    ("automaton row", automaton(reference=[[0.5, 0.4], [0, 1]]), "reference[0]: must be probabilities"),
    (
        "automaton shape",
        automaton(reference=[[0.5, 0.5]]),
        "reference: must have 2 lists of 2 numbers, like the next_state",
    ),
    ("automaton l2", automaton(regularizer="l2"), "regularizer: must be 'kl'"),
    ("automaton revenue", automaton(payment="revenue", normalization="max"), "groups[0].reward: must have max 1"),
    ("file, other key", group(reward={"path": "r.npy"}), "groups[1].reward.path: must not be here: unknown key"),
    ("file, number", group(reward={"file": 1}), "groups[1].reward.file: must be text"),
    ("file, ending", group(reward={"file": "r.pkl"}), "groups[1].reward.file: must be FILE.npy"),
    ("file, no key", group(reward={"file": "r.npz"}), "groups[1].reward.file: must be FILE.npy"),
    ("file, folder", group(reward={"file": "sub.npy"}), "groups[1].reward.file: must name a file, found a folder at"),
    ("file, missing", group(reward={"file": "none.npy"}), "groups[1].reward.file: must name a file that exists"),
    ("file, objects", group(reward={"file": "objects.npy"}), "groups[1].reward.file: must name a readable .npy file"),
    (
        "file, archived objects",
        group(reward={"file": "o.npz:r"}),
        "groups[1].reward.file: must name a readable .npz file",
    ),
    ("file, texts", group(reward={"file": "texts.npy"}), "groups[1].reward.file: must hold numbers, found str"),
    ("file, NaN", group(reward={"file": "nan.npy"}), "groups[1].reward: must be finite, got nan at"),
    ("file, three axes", group(reward={"file": "cube.npy"}), "groups[1].reward.file: must have one or two axes"),
    ("file, shape", group(reward={"file": "long.npy"}), "groups[1].reward: must have 2 numbers"),
    ("file, cut", group(reward={"file": "cut.npy"}), "groups[1].reward.file: must name a readable .npy file"),
    ("file, garbage", group(reward={"file": "junk.npz:r"}), "groups[1].reward.file: must name a readable .npz file"),
    (
        "file, wrong key",
        group(reward={"file": "good.npz:s"}),
        "groups[1].reward.file: must name a key that exists once",
    ),
    (
        "file, bad parquet",
        group(reward={"file": "junk.parquet:r"}),
        "groups[1].reward.file: must name a readable .parquet",
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    objects = np.array([{"a": 1}, 2], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", r=objects, allow_pickle=True)
    (tmp_path / "sub.npy").mkdir()
    np.savez(tmp_path / "good.npz", r=np.array([0.0, 1.0]))
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    np.save(tmp_path / "nan.npy", np.array([0.0, np.nan]))
    np.save(tmp_path / "cube.npy", np.zeros((1, 1, 2)))
    np.save(tmp_path / "long.npy", np.zeros(3))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "long.npy").read_bytes()[:-8])
    for name in ("junk.npz", "junk.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not really")
    return tmp_path


def check_refused(path: Path, wanted: str, *arguments: object) -> None:
    result = run("settle", path, *arguments)
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith(f"rlhf-game: {path}: "), result.err
    assert wanted in result.err
    assert result.err.count("\n") == 1
    assert result.err.isprintable() is False  # only because of its newline
    assert result.err[:-1].isprintable()


@pytest.mark.parametrize(("document", "wanted"), [d[1:] for d in DOCUMENTS], ids=[d[0] for d in DOCUMENTS])
def test_a_wrong_document_is_refused(folder: Path, document: Any, wanted: str) -> None:
    path = folder / "game.json"
    path.write_text(json.dumps(document))
    check_refused(path, wanted)
    check_refused(path, wanted, "--json")


GOOD = json.dumps(game())
ONE = "groups: [{name: a, size: 1, reward: [1]}]"
TEXTS: list[tuple[str, str, str | bytes, str]] = [
    ("empty", "g.json", "", "must hold a document, found an empty file"),
    ("empty yaml", "g.yaml", " \n\n", "must hold a document, found an empty file"),
    ("comments only", "g.yaml", "# nothing\n", "must hold a document, found only comments"),
    ("binary", "g.yaml", b"\x89PNG\r\n\x1a\n\x00", "must be UTF-8 text, found byte 0x89"),
    ("utf-16", "g.json", GOOD.encode("utf-16"), "must be UTF-8 text, found byte 0xff"),
    ("null characters", "g.yaml", b"a: \x00\x01", "must be YAML"),
    ("ending", "g.txt", GOOD, "must be a game file ending in .yaml, .yml, .json, .jsonl, found '.txt'"),
    ("no ending", "game", GOOD, "found 'no ending'"),
    ("cut", "g.json", GOOD[:-5], "must be JSON, found at column"),
    ("two documents", "g.json", GOOD + GOOD, "must be JSON, found at column"),
    ("NaN", "g.json", GOOD.replace("0.5", "NaN", 1), "reference[0]: must be a finite number, found nan"),
    ("infinity", "g.json", GOOD.replace('"strength": 1', '"strength": Infinity'), "strength: must be a finite number"),
    ("overflow", "g.json", GOOD.replace("0.5", "1e999", 1), "reference[0]: must be a finite number, found inf"),
    ("many digits", "g.json", GOOD.replace("0.5", "9" * 5000, 1), "reference[0]: must be a finite number, found inf"),
    ("key twice", "g.json", GOOD[:-1] + ', "strength": 2}', "must have each key once, found 'strength' twice"),
    ("deep", "g.json", "[" * 100_000 + "]" * 100_000, "must be at most 32 lists or mappings deep"),
    ("a bit deep", "g.json", "[" * 33 + "]" * 33, "must be at most 32 lists or mappings deep"),
    ("deep yaml", "g.yaml", "[" * 5000 + "]" * 5000, "must be"),
    ("half surrogate", "g.json", GOOD.replace('"a"', '"\\ud800\\n"') + "x", "must be JSON"),
    ("yaml syntax", "g.yaml", "a: [1, 2\nb: 3\n", "must be YAML, found at line 2"),
    ("yaml tab", "g.yaml", "groups:\n\t- a\n", "must be YAML, found at line 2"),
    (
        "yaml key twice",
        "g.yaml",
        "strength: 1\nstrength: 2\n",
        "line 2: must be plain YAML, found the key 'strength' twice",
    ),
    (
        "yaml python tag",
        "g.yaml",
        "a: !!python/object/apply:os.system [x]",
        "line 1: must be plain YAML, found the tag",
    ),
    ("yaml tag", "g.yaml", "strength: !!float 1", "found the tag 'tag:yaml.org,2002:float'"),
    ("yaml alias", "g.yaml", "a: &x [1]\nb: *x\n", "line 2: must be plain YAML, found an alias (*x)"),
    ("yaml bomb", "g.yaml", "a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]", "found an alias (*a)"),
    ("yaml two documents", "g.yaml", "a: 1\n---\nb: 2\n", "line 3: must be plain YAML, found a second document"),
    ("yaml number key", "g.yaml", "1: 2\n", "found a key that is 1; keys are text: put it in quotes"),
    ("yaml list key", "g.yaml", "? [a]\n: 2\n", "must be plain YAML, found"),
    ("yaml digits", "g.yaml", "strength: " + "9" * 5000 + "\nreference: [1]\n" + ONE, "strength: must be a finite"),
    ("yaml NaN", "g.yaml", "reference: [.nan, 1]\nstrength: .inf\n" + ONE, "reference[0]: must be a finite number"),
    (
        "yaml date",
        "g.yaml",
        "strength: 2001-01-01\nreference: [1]\n" + ONE,
        "strength: must be a number, found the text",
    ),
    ("yaml sexagesimal", "g.yaml", "strength: 1:30\nreference: [1]\n" + ONE, 'must be a number, found the text "1:30"'),
    ("yaml octal", "g.yaml", "strength: 0o17\nreference: [1]\n" + ONE, 'must be a number, found the text "0o17"'),
    (
        "yaml true label",
        "g.yaml",
        "outcomes: [true]\nreference: [1]\nstrength: 1\n" + ONE,
        "outcomes[0]: must be text (put it in quotes), found true",
    ),
    (
        "yaml null name",
        "g.yaml",
        "reference: [1]\nstrength: 1\ngroups: [{name: null, size: 1, reward: [1]}]",
        "groups[0].name: must be text (put it in quotes), found nothing (null)",
    ),
    ("escape codes", "g.json", json.dumps(game() | {"\x1b[31m\n": 1}), "'\\x1b[31m\\n': must be one of the keys"),
    ("lines, second bad", "g.jsonl", GOOD + "\n{}\n" + GOOD, "line 2: groups: must be given"),
    ("lines, not JSON", "g.jsonl", GOOD + "\n" + GOOD[:-1] + "\n", "line 2: must be JSON"),
    ("lines, gap", "g.jsonl", GOOD + "\n\n" + GOOD, "line 2: must be a JSON document, found an empty line"),
    (
        "lines, unsolvable",
        "g.jsonl",
        GOOD + "\n" + json.dumps(game(reference=[0.5, 0.6])),
        "line 2: reference: must sum to 1",
    ),
    (
        "lines, reward",
        "g.jsonl",
        GOOD + "\n" + json.dumps(game(normalization="sum", groups=[B | {"reward": [1, 1]}])),
        "line 2: groups[0].reward: must have sum 1",
    ),
]


@pytest.mark.parametrize(("name", "text", "wanted"), [t[1:] for t in TEXTS], ids=[t[0] for t in TEXTS])
def test_a_wrong_text_is_refused(tmp_path: Path, name: str, text: str | bytes, wanted: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_refused(path, wanted)
    check_refused(path, wanted, "--json", "-o", tmp_path / "receipt.json")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path / "none.yaml", "must be a file, found nothing there")
    (tmp_path / "folder.yaml").mkdir()
    check_refused(tmp_path / "folder.yaml", "must be a file, found a folder")


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    check_refused(loop, "must be a readable file")


def test_the_games_that_the_wrong_ones_were_made_from_are_right(tmp_path: Path) -> None:
    for document in (game(), automaton(), MENU):
        path = tmp_path / "game.json"
        path.write_text(json.dumps(document))
        result = run("settle", path, "--json")
        assert result.code == 0
        assert all(math.isfinite(group["payment"]) for group in json.loads(result.out)["groups"])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["settle"], "GAME: must be given, or --policy or --draws"),
        (["setle", "x"], "No such command 'setle'"),
        (["settle", "x.yaml", "--jsno"], "No such option"),
        (["settle", "x.yaml", "y.yaml"], "unexpected extra argument"),
        (["verify", "x.yaml"], "must come with its game, or the group's own report"),
        (["settle", "x.yaml", "-o"], "requires an argument"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], wanted: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert wanted in result.err
