"""Grades in words: asked for, and read back."""

import re

NUMBER = r"-?\d+(?:\.\d+)?"


def grade_rule(low: float, high: float) -> str:
    """Return the sentence that asks for a grade alone."""
    return f"Answer with one number from {low:g} to {high:g} and nothing else."


def grade_digits(low: float, high: float) -> tuple[int, ...]:
    """Return the whole grades from low to high where each is one digit, else none."""
    is_digits = low == int(low) and high == int(high) and 0 <= low < high <= 9
    return tuple(range(int(low), int(high) + 1)) if is_digits else ()


def read_grade(said: str, low: float, high: float) -> float | None:
    """Return the grade of an answer: the number after its last ``Grade:``, else its first number; None outside bounds.

    >>> read_grade("It has 2 faults. Grade: 7", 1, 10), read_grade("8.5", 1, 10), read_grade("11", 1, 10)
    (7.0, 8.5, None)
    """
    after = re.findall(rf"grade\W{{0,5}}({NUMBER})", said, re.IGNORECASE)
    found = after[-1:] or re.findall(NUMBER, said)[:1]
    if not found or not low <= float(found[0]) <= high:
        return None
    return float(found[0])
