"""Calls of language models: an OpenAI-compatible endpoint or a model on this machine, asked in one way.

``Chat.ask`` bounds how much is asked at the same time, tries again with growing pauses, keeps every answer on disk by
what it depends on, and accounts for calls, tokens and prices. No key is ever kept or shown.
"""

from rlhf_game.chat.cache import Cache
from rlhf_game.chat.chat import REPLIES, Chat, Graded
from rlhf_game.chat.endpoint import Endpoint
from rlhf_game.chat.grades import GradeScale
from rlhf_game.chat.ledger import Ledger, Prices
from rlhf_game.chat.local import LocalModel
from rlhf_game.chat.requests import ChatModel, Reply, Request, ask_once

__all__ = [
    "REPLIES", "Cache", "Chat", "ChatModel", "Endpoint", "Graded", "Ledger", "LocalModel", "Prices", "Reply", "Request",
    "GradeScale", "ask_once",
]  # fmt: skip
