"""Draws that a server generates, against a stand-in that serves a model of which all responses are listed."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import InputError, RunError
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.served_draws import ServerSpec, drawn_batch, other_samplings
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling
from tests.cli.runner import Result
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, SIZES, Truth, document
from tests.servers import Answer, serving
from tests.training_backends.trainers.policies.enumerable import END, PROMPT, WORDS, responses, save_model

LISTED = responses(LONGEST)
NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
"""Where a request is silent, vLLM takes these from the model's generation_config.json, whose log probabilities it then
does not say (vllm-project/vllm at 002032ee2b18e1f7bd924ec47b62504ba3866063, entrypoints/openai/completion/protocol.py:
to_sampling_params; -1 and 0 switch top_k off, of older versions -1 alone)."""


def completing(
    p: np.ndarray,
    *,
    keeps_end: bool = False,
    wrong: Callable[[Any], Any] = lambda answer: answer,
    drawn: np.ndarray | None = None,
) -> Answer:
    """Answer like vLLM, with draws from listed probabilities, of a model whose own settings are greedy.

    drawn: what it draws from in place of p, of which it says the log probabilities.
    """
    law = p if drawn is None else drawn / drawn.sum()

    @cache
    def log_mass(begun: tuple[int, ...]) -> float:
        return float(np.log(sum(p[k] for k, ids in enumerate(LISTED) if ids[: len(begun)] == begun)))

    def answer(asked: dict[str, Any], number: int) -> tuple[int, Any]:
        is_free = {key: asked.get(key) for key in NEUTRAL} == NEUTRAL
        k = int(np.random.default_rng(asked["seed"]).choice(p.size, p=law)) if is_free else int(p.argmax())
        ids = list(LISTED[k])
        logs = [log_mass(LISTED[k][: t + 1]) - log_mass(LISTED[k][:t]) for t in range(len(ids))]
        is_ended = ids[-1] == END
        if is_ended and keeps_end:
            ids, logs = ids[:-1], logs[:-1]
        said = {"tokens": [f"token_id:{one}" for one in ids], "token_logprobs": logs}
        choice = {"index": 0, "text": "", "logprobs": said, "finish_reason": "stop" if is_ended else "length"}
        return 200, wrong({"object": "text_completion", "choices": [choice]})

    return answer


@pytest.fixture(scope="module")
def models(place: Path) -> Path:
    save_model(place / "policy", seed=1)
    return place


def settled(models: Path, tmp_path: Path, servers: dict[str, str]) -> Result:
    named = {role: {"url": url, "name": "served", "workers": 4} for role, url in servers.items()}
    outcomes = {"max_new_tokens": LONGEST, "samples": 150, "choosing": 0, "servers": named}
    asked = {key: value for key, value in document(outcomes).items() if key != "model"}
    (tmp_path / "groups.json").write_text(json.dumps({**asked, "settlement_seed": 3}))
    given = ("--policy", models / "policy", "--reference", models / "model", "--groups", tmp_path / "groups.json")
    return command("settle", *given, "--json")


@pytest.mark.parametrize("keeps_end", [False, True])
def test_a_server_generates_and_the_models_here_say_how_probable_it_is(
    models: Path, tmp_path: Path, keeps_end: bool
) -> None:
    truth = Truth(load_language_model(str(models / "model")))
    p = truth.of(load_language_model(str(models / "policy")))
    with serving(completing(p, keeps_end=keeps_end)) as (policy, asked), serving(completing(truth.q)) as (reference, _):
        result = settled(models, tmp_path, {"policy": policy, "reference": reference})
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert len(asked) == 150
    assert len({one["seed"] for one in asked}) == 150
    assert all(one["model"] == "served" and one["logprobs"] for one in asked)
    for interval, value in (
        (receipt["certificate"]["gap"], truth.best(SIZES) - truth.welfare(p, SIZES)),
        (receipt["divergence"], float(p @ np.log(p / truth.q))),
        *((group["value"], float(truth.rewards[i] @ p)) for i, group in enumerate(receipt["groups"])),
    ):
        assert interval["low"] <= value <= interval["high"]


def test_a_server_of_another_model_is_refused(models: Path, tmp_path: Path) -> None:
    truth = Truth(load_language_model(str(models / "model")))
    with serving(completing(truth.q)) as (other, _):
        result = settled(models, tmp_path, {"policy": other})
    assert (result.code, result.out) == (2, "")
    assert "must serve the model that is here" in result.err


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "words for tokens": lambda choice: choice["logprobs"].update(tokens=["a"] * len(choice["logprobs"]["tokens"])),
    "no token ids": lambda choice: choice["logprobs"].pop("tokens"),
    "no log probabilities": lambda choice: choice.update(logprobs=None),
    "fewer log probabilities": lambda choice: choice["logprobs"]["token_logprobs"].pop(),
    "one that is null": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, None),
    "one above 0": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, 0.5),
    "one that is no number": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, float("nan")),
    "no such token": lambda choice: choice["logprobs"]["tokens"].__setitem__(0, "token_id:6"),
    "a number too large": lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, -(10**400)),
    "numbers too large together": lambda choice: choice["logprobs"].update(
        tokens=["token_id:2"] * 2, token_logprobs=[-1.7e308] * 2
    ),
    "stopped by somebody": lambda choice: choice.update(finish_reason="abort"),
}


@pytest.mark.parametrize("wrong", [*WRONG, "no choice", "no answer"])
def test_what_is_no_completion_with_its_tokens_is_refused(models: Path, wrong: str) -> None:
    model = load_language_model(str(models / "model"))

    def changed(answer: Any) -> Any:
        if wrong in WRONG:
            WRONG[wrong](answer["choices"][0])
            return answer
        return {"choices": []} if wrong == "no choice" else [1]

    with serving(completing(Truth(model).q, wrong=changed)) as (url, _):
        server, how = ServerSpec(url=url, name="served"), Sampling(LONGEST)
        with pytest.raises(RunError, match=r"must answer choices\[0\] with finish_reason stop or length and logprobs"):
            drawn_batch(server, model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1, sampling=how)


def answered(*tokens: int, finish: str) -> Answer:
    said = {"tokens": [f"token_id:{one}" for one in tokens], "token_logprobs": [-0.5] * len(tokens)}
    return lambda asked, number: (200, {"choices": [{"logprobs": said, "finish_reason": finish}]})


@pytest.mark.parametrize(
    ("tokens", "finish", "found"),
    [
        ((), "length", "0 tokens that were cut"),
        ((2,), "length", "1 tokens that were cut"),  # as at the end of the server's own context: a beginning
        ((2, 2), "stop", "2 tokens that stopped"),  # its end would be a token more than may be drawn
        ((2, 2, 2), "length", "3 tokens that were cut"),
        ((2, 2, END), "stop", "3 tokens that stopped"),
    ],
)
def test_what_is_no_whole_response_is_refused(models: Path, tokens: tuple[int, ...], finish: str, found: str) -> None:
    model = load_language_model(str(models / "model"))
    with serving(answered(*tokens, finish=finish)) as (url, _):
        server, how = ServerSpec(url=url, name="served"), Sampling(LONGEST)
        said = f"must answer a whole response, ended or cut after 2 tokens, found {found}"
        with pytest.raises(RunError, match=said):
            drawn_batch(server, model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1, sampling=how)


def test_a_server_that_draws_what_is_never_drawn_is_refused(models: Path) -> None:
    """Outside of top_k a token has the probability 0, and no number that a server says is near its logarithm."""
    model = load_language_model(str(models / "model"))
    q = Truth(model).q
    rare = min((ids for ids in LISTED if min(ids) > END), key=lambda ids: float(q[LISTED.index(ids)]))
    with serving(answered(*rare, finish="length")) as (url, _):
        server, how = ServerSpec(url=url, name="served"), Sampling(LONGEST, top_k=1)
        with pytest.raises(InputError, match="must serve the model that is here"):
            drawn_batch(server, model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1, sampling=how)


LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same one again": lambda p: p * (np.arange(p.size) == 5),
    "the likeliest one": lambda p: p * (p == p.max()),
    "colder": lambda p: p**5,
    "cut": lambda p: p * (p >= np.sort(p)[-4]),
    "honest": lambda p: p,
}


@pytest.mark.parametrize("law", LAWS)
def test_a_server_that_draws_otherwise_than_it_is_asked_is_refused(models: Path, law: str) -> None:
    """Of every token it says how probable it is under the model, and it draws them as it likes."""
    model = load_language_model(str(models / "model"))
    q = Truth(model).q
    with serving(completing(q, drawn=LAWS[law](q))) as (url, _):
        server, draws = ServerSpec(url=url, name="served"), [(0, j) for j in range(80)]
        draw = partial(drawn_batch, server, model, [model.encode_prompt(PROMPT)], draws, seed=1)
        if law == "honest":
            assert len(draw(sampling=Sampling(LONGEST))) == 80
            return
        with pytest.raises(InputError, match="must draw from the model that is here as it is asked to, by a seed for"):
            draw(sampling=Sampling(LONGEST))


def test_draws_may_have_been_cut_where_they_are_said_to_be_whole() -> None:
    cold = {f"draws at temperature {heat}": Sampling(4, heat) for heat in (0.25, 0.4, 0.625)}
    cut = {"draws with top_k 50": Sampling(4, 0.5, 50), "draws with top_p 0.9": Sampling(4, 0.5, top_p=0.9)}
    assert other_samplings(Sampling(4, 0.5)) == cold | cut
    assert other_samplings(Sampling(4, 0.5, 9)).keys() == cold.keys()


def test_a_server_that_stops_where_the_model_does_not_end_is_refused(models: Path) -> None:
    """vLLM adds stop tokens of the model's generation_config.json to those of a request, and says which it was."""
    model = load_language_model(str(models / "model"))
    end: list[int] = []

    def stopped(answer: Any) -> Any:
        answer["choices"][0].update(finish_reason="stop", stop_reason=end[0])
        for said in answer["choices"][0]["logprobs"].values():
            said[1:] = []  # it keeps the end to itself
        return answer

    def draw() -> Any:
        with serving(completing(Truth(model).q, wrong=stopped)) as (url, _):
            server, how = ServerSpec(url=url, name="served"), Sampling(LONGEST)
            return drawn_batch(server, model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1, sampling=how)

    end[:] = [3]
    with pytest.raises(RunError, match="must stop where the model here ends, found stop_reason 3"):
        draw()
    end[:] = [END]
    draw()


def test_probabilities_that_are_all_one_are_of_no_model(models: Path) -> None:
    """A server that knows none may say 0 for each token."""
    model = load_language_model(str(models / "model"))

    def certain(answer: Any) -> Any:
        said = answer["choices"][0]["logprobs"]
        said["token_logprobs"] = [0.0] * len(said["token_logprobs"])
        return answer

    with (
        serving(completing(Truth(model).q, wrong=certain)) as (url, _),
        pytest.raises(InputError, match="found 0$"),
    ):
        drawn_batch(
            ServerSpec(url=url, name="served"), model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1,
            sampling=Sampling(LONGEST),
        )  # fmt: skip


def test_the_end_that_a_server_keeps_to_itself_is_no_way_around_the_check(models: Path) -> None:
    """What is left of an ended answer is compared as well: here a server of other weights, which says ends alone."""
    model, other = (load_language_model(str(models / name)) for name in ("model", "policy"))
    ended = np.array([ids[-1] == END and len(ids) == 2 for ids in LISTED])
    p = np.where(ended, Truth(other).q, 0.0)
    p[ended] *= np.arange(ended.sum()) == 0  # one response
    with (
        serving(completing(p / p.sum(), keeps_end=True)) as (url, _),
        pytest.raises(InputError, match="must serve the model that is here"),
    ):
        drawn_batch(
            ServerSpec(url=url, name="served"), model, [model.encode_prompt(PROMPT)], [(0, 0)], seed=1,
            sampling=Sampling(LONGEST),
        )  # fmt: skip


def test_a_server_generates_candidates_of_a_proposal_and_weights_make_up_for_it(models: Path, tmp_path: Path) -> None:
    reference, other = (load_language_model(str(models / name)) for name in ("model", "policy"))
    p, asked = Truth(reference).of(other), {"kind": "candidates", "per_prompt": 40, "max_new_tokens": LONGEST}
    with serving(completing(p)) as (url, seen):
        outcomes = {**asked, "proposal": {"model": "policy"}, "server": {"url": url, "name": "served"}}
        (models / "served.json").write_text(json.dumps(document(outcomes)))
        run(read_config(models / "served.json"), tmp_path / "out")
        assert len({one["seed"] for one in seen}) == len(seen) == 40
    table = parquet.read_table(tmp_path / "out/candidates.parquet").to_pydict()
    places = [LISTED.index(tuple(ids)) for ids in table["token_ids"]]
    assert table["log_probability"] == pytest.approx(np.log(p[places]), abs=1e-4)
    assert table["log_reference"] == pytest.approx(np.log(Truth(reference).q[places]), abs=1e-4)
    once = [k for k, ids in enumerate(table["token_ids"]) if min(ids) > END]  # two words: one way to say them
    ratios = np.exp(np.array(table["log_reference"]) - table["log_probability"]) * table["count"]
    factors = np.array(table["weight"])[once] / ratios[once]
    assert factors == pytest.approx(factors[0], rel=1e-6)
    assert len(once) > 5
    with serving(completing(Truth(reference).q)) as (url, _):  # the reference, where the proposal is asked for
        (models / "served.json").write_text(json.dumps(document(outcomes | {"server": {"url": url, "name": "x"}})))
        result = command("run", models / "served.json", "-o", tmp_path / "wrong")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "must serve the model that is here" in result.err
    assert not (tmp_path / "wrong/candidates.parquet").exists()


def test_a_server_generates_the_proposals_of_exact_draws(models: Path, tmp_path: Path) -> None:
    """Each proposal has its log probability, and what is billed is what the draws of all texts are billed."""
    truth = Truth(load_language_model(str(models / "model")))
    outcomes = {"kind": "draws", "draws": 4, "max_proposals": 5_000, "max_new_tokens": LONGEST}
    with serving(completing(truth.q)) as (url, seen):
        served = {**outcomes, "server": {"url": url, "name": "served"}}
        (models / "served.json").write_text(json.dumps(document(served, settlement_seed=3)))
        assert command("run", models / "served.json", "-o", tmp_path / "out").code == 0
        assert len({one["seed"] for one in seen}) == len(seen)
    table = parquet.read_table(tmp_path / "out/tape.parquet").to_pydict()
    cut = {" ".join(WORDS[k] for k in ids): np.log(truth.q[at]) for at, ids in enumerate(LISTED) if min(ids) > END}
    said = dict(zip(table["response"], table["log_probability"], strict=True))
    for text in cut.keys() & said.keys():  # two words, and so one way to say it
        assert said[text] == pytest.approx(cut[text], abs=1e-4)
    assert len(cut.keys() & said.keys()) > 10
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    exact = truth.payments(truth.optimum(SIZES))
    for group, payment in zip(receipt["groups"], exact, strict=True):
        assert group["payment"]["low"] <= payment <= group["payment"]["high"]
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0


@pytest.mark.parametrize(("field", "value"), [("retries", -1), ("retries", 101), ("workers", 0), ("workers", 1001)])
def test_a_server_is_asked_a_number_of_times_that_makes_sense(models: Path, field: str, value: int) -> None:
    server = {"url": "http://127.0.0.1:9/v1", "name": "served", field: value}
    (models / "refused.json").write_text(
        json.dumps(document({"kind": "candidates", "per_prompt": 3, "server": server}))
    )
    with pytest.raises(InputError, match=rf"outcomes\.server\.{field}: must be "):
        read_config(models / "refused.json")


@pytest.mark.parametrize("outcomes", [{"kind": "candidates", "per_prompt": 3}, {"kind": "draws", "draws": 1}])
def test_a_server_beside_an_endpoint_is_refused(models: Path, outcomes: dict[str, Any]) -> None:
    """An endpoint's model is not here: nobody could say how probable its texts are."""
    server = {"url": "http://127.0.0.1:9/v1", "name": "served"}
    asked = {"max_proposals": 9, **outcomes} if outcomes["kind"] == "draws" else outcomes
    model = {"name": "x", "endpoint": "http://127.0.0.1:9/v1"}
    (models / "refused.json").write_text(json.dumps(document({**asked, "server": server}, model=model)))
    with pytest.raises(InputError, match=r"outcomes\.server: must not be here with an endpoint"):
        read_config(models / "refused.json")
