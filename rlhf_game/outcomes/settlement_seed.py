"""The seed of the draws that money is computed from: taken after all reports are read, and kept in the run's folder."""

import secrets
from typing import Final

from rlhf_game.files.run_folder import SEED, RunFolder
from rlhf_game.files.seals import revealed_seed
from rlhf_game.outcomes.run_config import Configuration
from rlhf_game.outcomes.sealing import seal_of, sealed_reports

SEEDS: Final = 2**63


def settlement_seed(configuration: Configuration, folder: RunFolder) -> tuple[int, str]:
    """Return the seed of all that follows the reports, and where it is from: a seal, the configuration, or now.

    Whoever knows it before it reports can choose a report for the draws that it gives.
    """
    if (seal := seal_of(folder)) is not None:
        reports = sealed_reports(configuration.fields, configuration.files)
        return revealed_seed(seal, reports), seal.seed_from
    if configuration.fields.settlement_seed is not None:
        return configuration.fields.settlement_seed, "config"
    kept = folder.part(SEED, 0)
    seed = kept.read()
    if seed is None:
        seed = secrets.randbelow(SEEDS)
        kept.write(seed)
    return int(seed), "provider"
