"""What a run would ask of language models, counted without asking."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_game.chat import Ledger
from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import CALLS
from rlhf_game.outcomes.asked import count_candidates
from rlhf_game.outcomes.prompts.prompts_game import count_prompts
from rlhf_game.outcomes.prompts.prompts_spec import PromptsSpec
from rlhf_game.outcomes.run_config import CandidatesSpec, Configuration
from rlhf_game.rewards.nested import nested
from rlhf_game.rewards.reward_specs import JudgeSpec


def count_calls(configuration: Configuration, path: Path) -> dict[str, Any]:
    """Return the account of what the run in the folder ``path`` would still ask; nothing is asked or written.

    Tokens are estimated, those of answers from above where their longest is given. Responses are taken to be all
    different; a writer's prompts too.
    Raises InputError when how many there are is not known before they are found.
    """
    ledger = Ledger(None)
    source, outcomes, calls = configuration.source, configuration.source.outcomes, path / CALLS
    rewards = [one.reward for group in configuration.fields.groups for one in nested(group.reward)]
    judges = [reward for reward in rewards if isinstance(reward, JudgeSpec)]
    prompts: Sequence[Text]
    if isinstance(outcomes, PromptsSpec):
        prompts, texts = count_prompts(source, outcomes, ledger, calls)
    elif isinstance(outcomes, CandidatesSpec):
        prompts = [prompt for prompt in source.prompts for _ in range(outcomes.per_prompt)]
        if source.model.endpoint is None:
            texts = [f"{k} " + "word" * outcomes.max_new_tokens for k in range(len(prompts))]  # as long as they can be
        else:
            texts = count_candidates(source, outcomes, ledger, calls)
    elif source.given is not None:
        prompts, texts = [source.prompts[b] for b in source.given.places], list(map(str, source.given.responses))
    elif judges or source.model.endpoint is not None:
        raise InputError(
            f"outcomes: must be candidates, given or prompts to count calls beforehand, found {outcomes.kind}"
        )
    for judge in judges:
        judge.build_judge(source.base, calls).count(prompts, texts, ledger)
    return ledger.report()
