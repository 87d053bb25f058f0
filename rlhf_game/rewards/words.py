"""Words of a text in any script: runs of letters and digits, or single characters where a script puts no spaces."""

import unicodedata
from functools import lru_cache
from typing import Final

UNSPACED: Final = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u1950", "\u19df"),  # Tai Le, New Tai Lue
    ("\u1a20", "\u1aaf"),  # Tai Tham
    ("\u1b00", "\u1b7f"),  # Balinese
    ("\u3005", "\u3007"),  # Han: the iteration mark, zero
    ("\u3021", "\u312f"),  # Han numerals, Hiragana, Katakana, Bopomofo
    ("\u31a0", "\u31ff"),  # Bopomofo and Katakana, extended
    ("\u3400", "\u4dbf"),  # Han, extension A
    ("\u4e00", "\u9fff"),  # Han
    ("\ua980", "\ua9ff"),  # Javanese, Myanmar extended B
    ("\uaa60", "\uaa7f"),  # Myanmar extended A
    ("\uf900", "\ufaff"),  # Han, compatibility
    ("\uff66", "\uff9f"),  # Katakana, half as wide
    ("\U00020000", "\U0003ffff"),  # Han, further extensions
)
"""The first and the last character of the blocks of scripts that put no spaces between words."""


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case: those of rouge-score wherever a text is ASCII.

    Each letter of a script without spaces is a word of its own, together with the marks on it.
    """
    found: list[str] = []
    is_open = False  # whether the next letter belongs to the last word
    for character in unicodedata.normalize("NFC", text.lower()):
        role = _role(character)
        if role == "mark" and found or role == "letter" and is_open:
            found[-1] += character
        elif role in ("letter", "unspaced"):
            found.append(character)
            is_open = role == "letter"
        else:
            is_open = False
    return found


def spaced(text: str) -> str:
    """Return a text with a space on both sides of each letter of a script without spaces, marks and all."""
    parts: list[str] = []
    for character in text:
        role = _role(character)
        if role == "mark" and parts and parts[-1].startswith(" "):
            parts[-1] = f"{parts[-1][:-1]}{character} "
        else:
            parts.append(f" {character} " if role == "unspaced" else character)
    return "".join(parts)


def is_unspaced(text: str) -> bool:
    """Return whether most letters of a text are of scripts that put no spaces between words."""
    roles = [_role(character) for character in text]
    return roles.count("unspaced") > roles.count("letter")


def count_words(text: str) -> int:
    """Return how many words stand between spaces; each letter of a script without spaces is one."""
    return sum(max(1, len(words(part))) if "unspaced" in map(_role, part) else 1 for part in text.split())


@lru_cache(maxsize=2**16)
def _role(character: str) -> str:
    match unicodedata.category(character)[0]:
        case "M":
            return "mark"
        case "L" | "N":
            is_in = any(first <= character <= last for first, last in UNSPACED)
            return "unspaced" if is_in and unicodedata.category(character) != "Nd" else "letter"
        case _:
            return "other"
