"""Several groups share one language model: one policy is trained for all, and payments make truth the best report.

Names are imported on first use, so that ``import rlhf_game`` is immediate and loads no optional dependency.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_NAMES = {
    "rlhf_game.version": ("__version__",),
    "rlhf_game.mechanism.mechanism": ("Mechanism", "Settlement", "Settlements", "settle_many"),
    "rlhf_game.mechanism.training": ("Trained", "TrainingRule", "AffineRule", "AffineWelfare", "SocialWelfare"),
    "rlhf_game.mechanism.payments": ("AffinePayments", "NoPayments", "PaymentRule", "RevenueOptimal"),
    "rlhf_game.mechanism.reports": ("Group", "Report", "Normalization"),
    "rlhf_game.mechanism.regularizers.kl": ("KL",),
    "rlhf_game.mechanism.regularizers.l2": ("SquaredL2",),
    "rlhf_game.mechanism.regularizers.f_divergences": (
        "ReverseKL", "PearsonChi2", "JensenShannon", "Hellinger", "Alpha",
    ),
    "rlhf_game.mechanism.spaces.table": ("Table",), "rlhf_game.mechanism.spaces.menu": ("Menu",),
    "rlhf_game.mechanism.spaces.chain": ("Chain",), "rlhf_game.mechanism.spaces.trie": ("Trie",),
    "rlhf_game.mechanism.regret": ("World", "Regret"),
    "rlhf_game.agents.audit": ("audit",),
    "rlhf_game.agents.best_response": ("BestResponse",),
    "rlhf_game.agents.misreports": ("Polarize", "Resize"),
    "rlhf_game.registry": ("register",), "rlhf_game.outcomes.draws.draws_space": ("Draws",),
    "rlhf_game.outcomes.candidates": ("Candidates",), "rlhf_game.rewards.neural": ("HF",),
    "rlhf_game.mechanism.spaces.base": ("Policy", "PolicySpace"),
    "rlhf_game.mechanism.regularizers.base": ("Regularizer",),
    "rlhf_game.errors": ("RlhfGameError", "InputError", "CombinationError", "MissingExtra", "RunError"),
}  # fmt: skip
_LOCATIONS = {name: module for module, names in _NAMES.items() for name in names}

if TYPE_CHECKING:  # for editors and type checkers, which then also know a name that does not exist
    from rlhf_game.agents.audit import audit
    from rlhf_game.agents.best_response import BestResponse
    from rlhf_game.agents.misreports import Polarize, Resize
    from rlhf_game.errors import CombinationError, InputError, MissingExtra, RlhfGameError, RunError
    from rlhf_game.mechanism.mechanism import Mechanism, Settlement, Settlements, settle_many
    from rlhf_game.mechanism.payments import AffinePayments, NoPayments, PaymentRule, RevenueOptimal
    from rlhf_game.mechanism.regret import Regret, World
    from rlhf_game.mechanism.regularizers.base import Regularizer
    from rlhf_game.mechanism.regularizers.f_divergences import Alpha, Hellinger, JensenShannon, PearsonChi2, ReverseKL
    from rlhf_game.mechanism.regularizers.kl import KL
    from rlhf_game.mechanism.regularizers.l2 import SquaredL2
    from rlhf_game.mechanism.reports import Group, Normalization, Report
    from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
    from rlhf_game.mechanism.spaces.chain import Chain
    from rlhf_game.mechanism.spaces.menu import Menu
    from rlhf_game.mechanism.spaces.table import Table
    from rlhf_game.mechanism.spaces.trie import Trie
    from rlhf_game.mechanism.training import AffineRule, AffineWelfare, SocialWelfare, Trained, TrainingRule
    from rlhf_game.outcomes.candidates import Candidates
    from rlhf_game.outcomes.draws.draws_space import Draws
    from rlhf_game.registry import register
    from rlhf_game.rewards.neural import HF
    from rlhf_game.version import __version__ as __version__
else:

    def __getattr__(name: str) -> object:
        if name not in _LOCATIONS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_LOCATIONS[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])


__all__ = [
    "AffinePayments", "AffineRule", "AffineWelfare", "Alpha", "BestResponse", "Candidates", "Chain", "CombinationError",
    "Draws", "Group", "HF", "Hellinger", "InputError", "JensenShannon", "KL", "Mechanism", "Menu", "MissingExtra",
    "NoPayments", "Normalization", "PaymentRule", "PearsonChi2", "Polarize", "Policy", "PolicySpace", "Regret",
    "Regularizer", "Report", "Resize", "RevenueOptimal", "ReverseKL", "RlhfGameError", "RunError", "Settlement",
    "Settlements", "SocialWelfare", "SquaredL2", "Table", "Trained", "TrainingRule", "Trie", "World", "audit",
    "register", "settle_many",
]  # fmt: skip
