"""How functions of others are called: with what they take of what there is, and waited for where they are async."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlhf_game.errors import InputError


def call(function: Callable[..., Any], given: Mapping[str, Any], *, name: str) -> Any:
    """Return what ``function`` returns, called by keywords: by all of ``given`` that it takes; an iterator as a list.

    name: what errors call it. Raises InputError when it asks for something that is not given.
    """
    takes = _parameters(function)
    if takes is not None:
        keywords = {p.name for p in takes.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        asked = [p.name for p in takes.values() if p.name in keywords and p.default is p.empty]
        if lacking := [one for one in asked if one not in given]:
            known = ", ".join(given)
            raise InputError(f"{name}: must ask for nothing but {known}, found {lacking[0]}, which nobody knows here")
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            given = {key: value for key, value in given.items() if key in keywords}
    returned = function(**given)
    returned = _waited_for(returned) if inspect.isawaitable(returned) else returned
    return list(returned) if isinstance(returned, Iterator) else returned


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a function that is not written in Python
        return None


def _waited_for(awaitable: Awaitable[Any]) -> Any:
    """Return what an awaitable gives, also where an event loop is running already, as in a notebook."""

    async def result() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, result()).result()
