"""Losses of preferences, discovered: propose, check, train, score, archive, for some generations."""

from rlhf_game.discovery.discovery_config import DiscoveryConfiguration, read_discovery
from rlhf_game.discovery.discovery_pipeline import FinishedDiscovery, count_calls, discover
from rlhf_game.discovery.expression_loss import loss_of
from rlhf_game.discovery.expressions import Limits, parse, write

__all__ = [
    "DiscoveryConfiguration", "FinishedDiscovery", "Limits", "count_calls", "discover", "loss_of", "parse",
    "read_discovery", "write",
]  # fmt: skip
