"""Grades: asked for as one number, as JSON where an endpoint takes a schema, and read back from what was said.

What is not clearly one grade is none: somebody pays for a judge that is misread, nobody for one that is asked again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?![\w%]|[.,]\d|-[a-z])"
_START = r"(?<![\w./,+-])"
_NOUN = r"(?:grade|score|rating)"
_KEYWORD = (
    rf"\b(?:{_NOUN}|graded?|scores|scored|rated?|deserves?|"
    r"g(?:ive|ives|iving|ave)\s+(?:it|(?:this|that|the)\s+(?:response|answer|reply|text|one)|this|that))\b"
)
_LINK = (
    r"(?:[^\S\n]|[:=|\"'()\[\]]|-(?=\s)|\b(?:is|of|for|a|an|as|at|it|this|that|the|be|would|overall|final|response|answer|"
    rf"reply|text|solid|strong|perfect|full|{_NOUN})\b){{0,40}}?"
)
_POSSIBLE = r"(?:a\s+)?(?:possible|maximum(?:\s+of)?|total\s+of)?\s*"
_OUT_OF = rf"(?:/|(?:points?\s+)?(?:out\s+)?of\b)\s*{_POSSIBLE}(?P<whole>\d+(?:\.\d+)?)(?!\d|[.,]\d|\s*/|%)"
_MORE = r"(?:-|~|/|:|,|\b(?:to|and)\b)\s*[+-]?\.?\d|\bor\b|\bfor\b[^.\n]*\d"
"""What makes a number one of several, or of another scale."""
_AFTER = (
    r"(?:points?|stars?|marks?)?\s*(?:$|\n|-\s+\w|[.!;:,()\[\]}\"'|]|\b(?:because|for|since|as|and|but|overall|due|on|given|in|with|"
    r"at|is|it|this|although|though|while|which|here|by|that|if)\b)"
)
_NEGATED = re.compile(r"(?:\b(?:not|never|cannot|no)|n't)\s+(?:\w+\s+)?$")
_EXTREME = r"(?:best|worst|highest|lowest|maximum|minimum|max|min|top|passing|previous|earlier)"
_ANCHOR = r"(?:=|\b(?:is|being|means?|meaning|stands\s+for|represents?|indicates?|corresponds?\s+to)\b)"
FIELDS = frozenset({"grade", "score", "rating"})
"""Names of the fields of a JSON object that hold a grade."""
LONGEST = 20_000
"""Characters of a reply that is read at all."""


@final
@dataclass(frozen=True)
class GradeScale:
    """The grades that are asked for: numbers from ``low`` to ``high``, after a short reason where it ``explains``."""

    low: float
    high: float
    explains: bool = False

    @property
    def rule(self) -> str:
        """The sentence that asks for a grade."""
        ends = f"from {self.low:g} to {self.high:g}"
        if self.explains:
            return f"Explain in at most two sentences, then end with a line 'Grade: N', N {ends}."
        return f"Answer with one number {ends} and nothing else."

    @property
    def digits(self) -> tuple[int, ...]:
        """The whole grades where each is one digit and all of the answer, else none."""
        is_digits = self.low == int(self.low) and self.high == int(self.high) and 0 <= self.low < self.high <= 9
        return tuple(range(int(self.low), int(self.high) + 1)) if is_digits and not self.explains else ()

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of an answer."""
        reason = {"reason": {"type": "string"}} if self.explains else {}
        fields = {**reason, "grade": {"type": "number", "minimum": self.low, "maximum": self.high}}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    def read(self, said: str) -> float | None:
        """Return the grade in a whole answer, or None where there is none, or none that is in bounds, or several.

        A grade is the whole answer; a field ``grade``, ``score`` or ``rating`` of a JSON object; N/high or "N out of
        high"; or a number after grade, score, rating, deserves or give it. What stands before the end of ``<think>`` is
        none of the answer, and what says how the scale goes is no grade.

        >>> ten = GradeScale(1, 10)
        >>> ten.read("On a scale from 1 to 10, this deserves 7."), ten.read('{"reason": "3 facts", "score": 7}')
        (7.0, 7.0)
        >>> ten.read("I cannot grade this; see section 3."), ten.read("Clarity: 7/10, accuracy: 5/10"), ten.read("11")
        (None, None, None)
        """
        answer = _answer(said)
        if answer is None or len(answer) > LONGEST:
            return None
        found = set(self._found(answer))
        grade = found.pop() if len(found) == 1 else None
        return grade if grade is not None and self.low <= grade <= self.high else None

    def _found(self, answer: str) -> Iterator[float | None]:
        """Yield every grade that is said; None for one that cannot be one: then there is none."""
        if (whole := _whole(answer)) is not None:
            yield whole
            return
        documents, text = _json_objects(answer)
        for value in (value for document in documents for value in _fields(document)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield _float(value)
            elif isinstance(value, str):
                yield from self._found_in_text(value.strip(), is_alone=True)
        yield from self._found_in_text(text, is_alone=False)

    def _found_in_text(self, text: str, *, is_alone: bool) -> Iterator[float | None]:
        """Yield the grades that a text states, kind by kind; None for one that is stated and cannot be read.

        Kinds: ``7/10`` and ``7 out of 10``, a keyword with its number, a keyword with the number on the next line.
        """
        if is_alone and (whole := _whole(text)) is not None:
            yield whole
            return
        plain = _plain(text)
        if self._is_of_another_scale(plain):
            yield None
        plain = self._without_scale(plain)
        for match in re.finditer(rf"{_START}(?P<number>{_NUMBER})\s*{_OUT_OF}", plain):
            is_range = re.search(
                r"\d\s*(?:-|~|\b(?:to|or|and)\b)\s*$", plain[max(0, match.start() - 40) : match.start()]
            )
            if float(match["whole"]) == self.high and ("/" in match[0] or "out" in match[0]):
                yield None if is_range else float(match["number"])
        for match in re.finditer(rf"{_KEYWORD}{_LINK}{_START}(?P<number>{_NUMBER})[^\S\n]*", plain):
            if not _NEGATED.search(plain[max(0, match.start() - 40) : match.start()]):
                yield from self._after_keyword(match["number"], plain[match.end() :])
        for match in re.finditer(
            rf"{_KEYWORD}[^\S\n]*:?[^\S\n]*\n\s*(?P<number>{_NUMBER})[^\S\n]*[.!]?[^\S\n]*(?:\n|$)", plain
        ):
            yield float(match["number"])

    def _after_keyword(self, number: str, rest: str) -> Iterator[float | None]:
        """Yield the grade that a number after a keyword is, by what follows it."""
        if (of := re.match(_OUT_OF, rest)) is not None:
            yield float(number) if float(of["whole"]) == self.high else None
        elif re.match(_MORE, rest):
            yield None
        elif re.match(_AFTER, rest):
            yield float(number)

    def _is_of_another_scale(self, text: str) -> bool:
        """Return whether a scale is stated that is not this one."""
        ends = re.findall(r"scale\s+(?:of|from|is|:)?\s*(?:from\s+)?([\d.]*\d)\s*(?:-|to|and)\s*([\d.]*\d)", text)
        points = re.findall(r"\b(\d+)[- ]points?\s+scale", text)
        wanted = (self.low, self.high)
        return any(tuple(map(_float, pair)) != wanted for pair in ends) or any(float(n) != self.high for n in points)

    def _without_scale(self, text: str) -> str:
        """Return the text without what says how the scale goes: its ends, what they stand for, how far it reaches."""
        low, high = (rf"(?<![\d.]){re.escape(f'{end:g}')}(?:\.0+)?(?!\d|[.,]\d)" for end in (self.low, self.high))
        text = re.sub(r"[(\[][^()\[\]]*[)\]]", _unless_graded, text)
        text = re.sub(rf"(?:\b(?:from|between|of)\s+)?{low}\s*(?:-|\.\.+|\b(?:to|and|through)\b)\s*{high}", " ", text)
        text = re.sub(r"\b\d+[- ]points?\s+scale", " ", text)
        text = re.sub(rf"(?:{high}\s*/\s*{high}|{low}|{high})\s*{_ANCHOR}(?!\s*\d)", " ", text)
        text = re.sub(rf"{low}\s+(as|for)\b[^.\n]{{0,100}}{high}\s+\1\b", " ", text)
        beyond = rf"\s*(?:possible\s+)?{_NOUN}?s?\s*(?:=|:|\b(?:is|being|of|at|was|would\s+be)\b)?\s*{_NUMBER}"
        text = re.sub(rf"\b{_EXTREME}\b{beyond}", " ", text)
        text = re.sub(
            rf"\b(?:perfect|full)\s+{_NOUN}s?\s*(?:=|:|\b(?:is|being|of|would\s+be)\b)\s*{_NUMBER}", " ", text
        )
        return re.sub(rf"(?<!\d)(?<!\d\s)(?<!points\s)\bout\s+of\s+{_POSSIBLE}{high}", " ", text)


def _answer(said: str) -> str | None:
    """Return what is said after the last thought, or None while the thought has not ended.

    >>> _answer("<think>8?</think> 7"), _answer("so 8?</think> 7"), _answer("7 <think> or 8")
    ('7', '7', None)
    """
    parts = re.split(r"</think(?:ing)?>", said, flags=re.IGNORECASE)
    return None if re.search(r"<think(?:ing)?>", parts[-1], re.IGNORECASE) else parts[-1].strip()


def _whole(answer: str) -> float | None:
    """Return the number that an answer is, whatever it is dressed in."""
    bare = re.sub(r"^[\s*_`\"'(\[]+|[\s*_`\"')\].!]+$", "", answer.replace("\u2212", "-"))
    return float(bare) if re.fullmatch(_NUMBER, bare) else None


def _plain(text: str) -> str:
    """Return the text in small letters, without the marks of Markdown, with plain dashes."""
    text = text.lower().replace("\u2212", "-").replace("\u2013", "-").replace("\u2014", " - ").replace("\u2019", "'")
    text = re.sub(rf"<({_NOUN})>(.{{0,50}}?)</\1>", r" \1: \2\n", text, flags=re.DOTALL)
    return re.sub(r"[*`#]+|(?<!\w)_+|_+(?!\w)", "", text)


def _unless_graded(match: re.Match[str]) -> str:
    """Return a remark in brackets where it may be a grade, else nothing."""
    inner = match[0][1:-1].strip()
    is_kept = not re.search(r"\d", inner) or re.search(_KEYWORD, inner) or re.fullmatch(r"[\d\s./+-]+", inner)
    return match[0] if is_kept else " "


def _json_objects(text: str) -> tuple[list[Any], str]:
    """Return the JSON objects in a text, and the text without them."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)  # a field that comes twice is seen twice
    objects, rest, at = [], [], 0
    while (start := text.find("{", at)) >= 0:
        rest.append(text[at:start])
        try:
            document, at = decoder.raw_decode(text, start)
            objects.append(document)
        except (ValueError, RecursionError):
            rest.append("{")
            at = start + 1
    return objects, "".join([*rest, text[at:]])


def _fields(value: Any) -> Iterator[Any]:
    """Yield what the fields of grades hold, however deep they are. value: an object is a list of pairs."""
    if not isinstance(value, list):
        return
    for item in value:
        if isinstance(item, tuple):
            name, inner = item
            if name.strip().casefold() in FIELDS:
                yield inner
            yield from _fields(inner)
        else:
            yield from _fields(item)


def _float(value: Any) -> float:
    """Return a number, which is infinite where it is too large."""
    try:
        return float(value)
    except (OverflowError, ValueError):
        return float("inf")
