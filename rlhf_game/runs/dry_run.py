"""What a run would ask of language models, counted without asking."""

from pathlib import Path
from typing import Any

from rlhf_game.chat import Ledger
from rlhf_game.errors import InputError
from rlhf_game.runs.chats import CALLS
from rlhf_game.runs.config import CandidatesSpec, Configuration, Source
from rlhf_game.runs.nested import nested
from rlhf_game.runs.prompts import PromptsSpec
from rlhf_game.runs.prompts_game import count_prompts
from rlhf_game.runs.specs import JudgeSpec


def count_calls(configuration: Configuration, path: Path) -> dict[str, Any]:
    """Return the account of what the run in the folder ``path`` would still ask; nothing is asked or written.

    Tokens are estimated, those of answers from above. Responses are taken to be all different; a writer's prompts too.
    Raises InputError when judges would grade responses whose number is not known before they are found.
    """
    ledger = Ledger(None)
    source, outcomes, calls = configuration.source, configuration.source.outcomes, path / CALLS
    rewards = [one.reward for group in configuration.fields.groups for one in nested(group.reward)]
    judges = [reward for reward in rewards if isinstance(reward, JudgeSpec)]
    if isinstance(outcomes, PromptsSpec):
        prompts, texts = count_prompts(source, outcomes, ledger, calls)
    elif isinstance(outcomes, CandidatesSpec):
        prompts, texts = _pretended(source, outcomes)
    elif judges:
        raise InputError(f"outcomes: must be candidates or prompts to count what judges grade, found {outcomes.kind}")
    for judge in judges:
        judge.build_judge(source.base, calls).count(prompts, texts, ledger)
    return ledger.report()


def _pretended(source: Source, outcomes: CandidatesSpec) -> tuple[list[str], list[str]]:
    """Return the prompt of each response, and as long a text as it can be."""
    prompts = [prompt for prompt in source.prompts for _ in range(outcomes.per_prompt)]
    return prompts, [f"{k} " + "word" * outcomes.max_new_tokens for k in range(len(prompts))]
