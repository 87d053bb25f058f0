"""Measure a whole run of exact draws on SmolLM2, beside plain generation; writes a table of docs/draws.md.

RLHF_GAME_DATA=folder python -m measurements.measure_tape FOLDER

Needs helpful and harmless .jsonl.gz of rows {prompt, chosen, rejected, split} and the wheels of models.txt. Trains two
reward models, runs 4 prompts x 32 tokens x 16 draws at strength 0.5 from the model on this machine and then from a
stand-in endpoint that answers with its texts, and draws and scores the same proposals plainly. Costs are processor time
of this process; FOLDER keeps what is finished.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

from pyarrow import parquet

from measurements.measure_draws import PROMPTS, SPREAD, rows_of
from measurements.measured import write_table
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
from rlhf_game.outcomes.draws.plan import writing_of
from rlhf_game.outcomes.draws.proposals import Draw, ModelProposer, Proposal, open_proposer
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.rewards import RewardModel
from rlhf_game.rewards.texts import call_reward
from rlhf_game.training import read_training, train

SEED = 1
HEADS = ("proposals from", "processor s", "plain processor s", "ratio", "asked", "on the tape", *(
    f"{name} {what}" for name in ("helpful", "harmless") for what in ("pays", "standard error", "interval")
))  # fmt: skip


def reward_model(name: str, folder: Path) -> dict[str, Any]:
    """Train one on real preferences; return its group's reward and the map that public pairs speak for."""
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows_of(name, "train")]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    asked = {
        "kind": "reward_model", "data": f"{name}.jsonl", "backbone": "all-minilm-l6-v2", "method": "embedding",
        "truncate": "tail", "seed": SEED,
    }  # fmt: skip
    (folder / f"train_{name}.json").write_text(json.dumps(asked), encoding="utf-8")
    train(read_training(folder / f"train_{name}.json"), folder / name)
    public = [(row["prompt"], row[side]) for row in rows_of(name, "test") for side in ("chosen", "rejected")]
    prompts, texts = zip(*public, strict=True)
    scores = call_reward(RewardModel(str(folder / name / "model"), truncate="tail"), prompts, texts)
    scale = {"kind": "logistic", "center": float(scores.mean()), "scale": SPREAD * float(scores.std())}
    return {"reward": {"hf": f"{name}/model", "truncate": "tail"}, "calibration": scale}


def configuration(folder: Path, groups: dict[str, Any], model: Any) -> Path:
    """Write what is run."""
    outcomes = {"kind": "draws", "draws": 16, "max_proposals": 100_000, "max_new_tokens": 32}
    document = {
        "model": model, "prompts": list(PROMPTS), "outcomes": outcomes, "strength": 0.5, "settlement_seed": SEED,
        "groups": [{"name": name, "size": 2 - i, **group} for i, (name, group) in enumerate(groups.items())],
    }  # fmt: skip
    path = folder / f"run_{'endpoint' if isinstance(model, dict) else 'local'}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def plainly(config: Path, tape: dict[str, list[Any]]) -> float:
    """Draw the proposals of a tape in whole batches, score their texts once, and return the processor time."""
    begun, one = time.process_time(), read_config(config)
    draws = list(zip(tape["prompt"], tape["proposal"], strict=True))
    with TemporaryDirectory() as folder:
        source = one.source
        proposer = open_proposer(source.model, source.prompts, writing_of(one), None, source.base, Path(folder))
        texts = [found.text for found in proposer.propose(draws, SEED, 0)]
        said = list(dict.fromkeys(zip(tape["prompt"], texts, strict=True)))
        GroupScorer(one, Path(folder)).score([b for b, _ in said], [text for _, text in said])
    return time.process_time() - begun


class Standing:
    """An endpoint on this machine that answers with one of the texts that a prompt has, the next one each time."""

    def __init__(self, pools: dict[str, list[str]]) -> None:
        self.asked, lock = 0, Lock()
        standing = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    standing.asked += 1
                    pool = pools[document["messages"][-1]["content"]]
                    text = pool[standing.asked * 7919 % len(pool)]
                message = {"role": "assistant", "content": text}
                content = json.dumps(
                    {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 0,
                        "model": document["model"],
                        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                        "usage": {"prompt_tokens": 30, "completion_tokens": len(text.split()), "total_tokens": 60},
                    }  # fmt: skip
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def model(self) -> dict[str, Any]:
        """What a configuration calls it."""
        return {"name": "stand-in", "endpoint": {"url": f"http://127.0.0.1:{self.server.server_port}/v1"}}


def settled(config: Path, out: Path) -> tuple[DrawsRun, dict[str, list[Any]], float]:
    """Run; return what came of it, its tape and the processor time."""
    begun = time.process_time()
    finished = run(read_config(config), out)
    spent = time.process_time() - begun
    assert isinstance(finished, DrawsRun)
    return finished, parquet.read_table(out / "tape.parquet").to_pydict(), spent


def bills(finished: DrawsRun) -> list[str]:
    """The cells of both groups."""
    cells = []
    for group in finished.receipt.model_dump()["groups"]:
        paid = group["payment"]
        cells += [
            f"{paid['estimate']:.3f}",
            f"{paid['standard_error']:.3f}",
            f"{paid['low']:.3f} to {paid['high']:.3f}",
        ]
    return cells


@contextmanager
def counting() -> Iterator[list[int]]:
    """Yield how many proposals the model on this machine is asked for in each round."""
    rounds: list[int] = []
    ask = ModelProposer.propose

    def counted(self: ModelProposer, wanted: Sequence[Draw], *arguments: Any) -> list[Proposal]:
        rounds.append(len(wanted))
        return ask(self, wanted, *arguments)

    ModelProposer.propose = counted  # type: ignore[method-assign]
    yield rounds
    ModelProposer.propose = ask  # type: ignore[method-assign]


def row(name: str, run_of: tuple[DrawsRun, dict[str, list[Any]], float], plain: float, asked: int) -> list[Any]:
    """A row of the table."""
    finished, tape, spent = run_of
    cells = [name, f"{spent:.0f}", f"{plain:.0f}", f"{spent / plain:.2f}", asked, len(tape["prompt"])]
    return [*cells, *bills(finished)]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description="Measure a whole run of exact draws beside plain generation.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    groups = {name: reward_model(name, folder) for name in ("helpful", "harmless")}

    local = configuration(folder, groups, "smollm2-135m-instruct")
    with counting() as counts:
        here = settled(local, folder / "local")
    rows = [row("the model on this machine", here, plainly(local, here[1]), sum(counts))]
    print("rounds of", counts)  # noqa: T201
    answers = zip(here[1]["response"], here[1]["prompt"], strict=True)
    pools: dict[str, list[str]] = {prompt: [] for prompt in PROMPTS}
    for text, b in answers:
        pools[PROMPTS[b]].append(text)
    standing = Standing(pools)
    remote = configuration(folder, groups, standing.model)
    there = settled(remote, folder / "endpoint")
    asked = standing.asked
    rows.append(row("a stand-in endpoint", there, plainly(remote, there[1]), asked))
    write_table("draws.md", "tape", HEADS, rows)


if __name__ == "__main__":
    main()
