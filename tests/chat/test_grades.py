"""A grade is read where one was given, and nothing else is taken for one."""

import json

import pytest

from rlhf_game.chat import GradeScale

TEN = GradeScale(1, 10)
GRADED = {
    # as the issue has them
    "On a scale from 1 to 10, this deserves 7.": 7, '{"reason": "3 facts", "score": 7}': 7,
    "Grade: 7. It has 3 faults.": 7, "7/10": 7,
    # the whole reply
    "7": 7, " 7.5\n": 7.5, "7.": 7, "**7**": 7, "`8`": 8, '"9"': 9, "(4)": 4, "+7": 7, "10": 10, "1": 1, "7.0": 7,
    # N/10 and N out of 10
    "10/10 would read again": 10, "7.5/10": 7.5, "It is a 7 / 10.": 7, "I'd say 8 out of 10.": 8, "**6/10**": 6,
    "6 points out of 10": 6, "Solid work, 9/10!": 9, "8 out of a possible 10": 8, "(7/10)": 7, "7/10.0": 7,
    # after a word
    "Grade: 7": 7, "grade 7": 7, "GRADE = 7": 7, "Grade - 7": 7, "Grade \u2014 7": 7, "**Grade:** 7": 7,
    "**Grade: 7**": 7, "Grade: **7/10**": 7, "Grade: 7/10. It has 3 faults in 2 places.": 7, "*Score*: _8_": 8,
    "Score: 8.5": 8.5, "Rating: 8 points.": 8, "The score is 8.": 8, "The overall score would be an 8.": 8,
    "My rating for this response is 6.": 6, "I rate this answer a 9": 9, "I give it a 7 for its clarity.": 7,
    "I would give this response a 7 because it has 3 facts.": 7, "I'd give it 8 out of 10.": 8,
    "It deserves a perfect 10.": 10, "It deserves a solid 7!": 7, "## Grade\n\n8\n": 8, "Grade:\n7/10\nIt is short.": 7,
    "'score': 7": 7, '"score": 7': 7, "<grade>7</grade>": 7, "| Grade | 7 |": 7, "Grade: 7, as it is short": 7,
    "1. It is true.\n2. It is short.\nGrade: 9": 9, "It names 3 facts in 2 lines. Score: 6": 6, "Grade: 7 (B+)": 7,
    "This scores 7 overall": 7, "Score: 7 of 10": 7, "It has 10 faults. Grade: 1": 1, "Grade: [7]": 7,
    # statements of the scale
    "Score (1-10): 7": 7, "Score (out of 10): 8": 8, "Grade (1 to 10): **8**": 8, "Rating: 8 (on a scale of 1-10)": 8,
    "Rating (1\u201310): 8": 8, "On a 1-10 scale, it deserves 3.": 3, "On a 10-point scale I give it 4.": 4,
    "Between 1 and 10, I give it 7.": 7, "Score from 1 to 10: 7": 7, "Scale: 1-10. Grade: 7": 7,
    "From 1 (worst) to 10 (best), my rating is 6.": 6, "With 1 being the worst and 10 being the best, score: 2": 2,
    "Score (1: bad, 10: good): 7": 7, "1 = poor, 10 = excellent. Grade: 4": 4, "10 is the best. Grade: 3": 3,
    "10/10 is the highest grade. This one deserves 6.": 6, "The highest grade is 10, this deserves 7.": 7,
    "The maximum score is 10; I give it 7.": 7, "Out of 10, it deserves 7.": 7, "Score out of 10: 7": 7,
    "A perfect score of 10 needs sources. Grade: 8": 8, "Where 10 means perfect, I give it 5.": 5,
    "1 for poor, 10 for excellent. Grade: 4": 4, "Max: 10, score: 7": 7, "The previous score was 5. Grade: 7": 7,
    "The response deserves a score between 1 and 10: 7": 7, "Grade: 10 (on a scale where 10 is best)": 10,
    "Score: 7 (out of 10)": 7, "Grade: 1 (poor)": 1, "I give it a 10 for its clarity.": 10,
    "Grade: 10 as it is true": 10,
    # JSON
    '{"grade": 7}': 7, '{"grade": 7.5, "max_score": 10}': 7.5, '{"Rating": "7"}': 7, '{"score": "7/10"}': 7,
    '```json\n{"reason": "score: 3 at first", "grade": 7}\n```': 7, 'Here it is: {"score": 7} Done, 3 faults.': 7,
    '{"result": {"score": 7}}': 7, '[{"score": 7}]': 7, '{"grade": 7} Grade: 7': 7, '{\n  "grade": 10\n}': 10,
    '{"grade": 7, "section": 3}': 7, '{"why": "a {brace", "grade": 7}': 7,
    # thoughts
    "<think>8? No, 3/10.</think>7": 7, "<think>\nGrade: 2\n</think>\n\nGrade: 7": 7, "Score: 3</think> Score: 7": 7,
    "<think>a</think><think>4</think>7": 7, "<THINK>4</THINK> {\"grade\": 7}": 7, "<thinking>4</thinking> 7": 7,
    # agreement
    "Grade: 7. So 7/10.": 7, "Score: 7\nFinal grade: 7": 7, "I would not give it a 9. Grade: 7": 7,
}  # fmt: skip
NOT_GRADED = [
    "I cannot grade this; see section 3.", "", "no idea", "seven", "7 facts", "It has 3 faults.", "section 3", "N/A",
    # out of bounds, negative, another scale
    "11", "0", "-7", "\u22127", "Grade: -3", "Grade: 11", "Grade -7", "12/10", "Grade: 3/5", "Score: 70/100", "3/5",
    "90%", "Grade: 90%", "Score: 7 out of 20", "On a scale from 1 to 5, this deserves 4.",
    "On a 5-point scale: grade 4.",
    '{"score": 70, "out_of": 100}', '{"grade": 1e400}', '{"grade": NaN}', '{"grade": -7}', "0/10", "7/10/2024", "24/7",
    # several
    "Grade: 7 or 8", "Grade: 7-8", "Grade: 7 to 8", "6-7/10", "6 or 7/10", "Scores: 7, 8", "Score: 7, 8, 5", "7 8",
    "Accuracy: 7/10, clarity: 5/10", "Score: 7\nFinal grade: 8", '{"score": 7, "rating": 6}',
    '{"score": 7, "score": 6}',
    '{"grade": 7} Grade: 8', '[{"score": 7}, {"score": 8}]', "Score 2 for clarity and 5 for depth", "Score 1: 7",
    "It deserves between 6 and 7.", "Grade: 7 / 8", "<think>7</think>Grade: 6 or Grade: 7",
    # the scale alone
    "On a scale from 1 to 10", "1-10", "1 to 10", "Score: 1-10", "The highest possible rating is 10.", "Score (1-10):",
    "A perfect score is 10.", "A perfect score of 10 would need sources.", "10/10 is the highest grade.",
    "The grade is a number from 1 to 10.", "10 is best", "1 = poor, 10 = excellent", "The maximum grade is 10.",
    "Grades go from 1 to 10.", "Give it a grade between 1 and 10", "The best score is 10 and the worst score is 1.",
    "1 for poor, 10 for excellent", "1 as the worst and 10 as the best score",
    # no grade at all
    "Grade: >7", "score >= 7", "score > 7", "Grade: <7", "This deserves more than 7", "Grade: 7+", "Grade: 8-",
    "Grade: ~7",
    "Grade: 1e1", "Overall: 7", "Score: I. 7 facts", "a 7-point gap in grades", "It deserves less than a 7.",
    "<think>7", "7 <think> or 8", "Grade: 7 <think>hm</think>", "<think>Grade: 7</think>", "<think>7</think> <think>",
    "Grade: A", "The grade is not 7.", "I would not give it a 9.", "I can't give this 3.", "It gives 3 examples.",
    "It is written for grade 3 students.", "Should I give it 7?", "I will grade\n1. Accuracy", "Grade: 7,5", "7,5",
    "Grade: 7th", "Grade: 1.2.3", "underscore 3", "max_score: 10", "version 7.5.1", "Grade: at least 7",
    "It deserves 2 remarks.",
    '{"grade": null}', '{"grade": true}', '{"grade": "good"}', '{"reason": "score: 7"}', '{"overall": 7}', "{" * 5000,
    '{"a":' * 5000, "[" * 5000, "7" * 400, "7/10 " * 4001,
]  # fmt: skip


@pytest.mark.parametrize("said", GRADED)
def test_a_grade_is_read(said: str) -> None:
    assert TEN.read(said) == GRADED[said]


@pytest.mark.parametrize("said", NOT_GRADED, ids=range(len(NOT_GRADED)))
def test_what_is_no_grade_is_none(said: str) -> None:
    assert TEN.read(said) is None, said


@pytest.mark.parametrize(
    ("said", "low", "high", "grade"),
    [
        ("-3", -5, 5, -3), ("Grade: -3", -5, 5, -3), ("+3", -5, 5, 3), ("\u22123", -5, 5, -3), (".5", 0, 1, 0.5),
        ("Score: .5", 0, 1, 0.5), ("0.8/1", 0, 1, 0.8), ("On a scale from 0 to 1: score 0.25", 0, 1, 0.25),
        ("85/100", 1, 100, 85),
        ("85 out of 100", 0, 100, 85), ("4/5", 1, 5, 4), ("7/10", 1, 5, None), ("0", 0, 1, 0), ("Grade: 0", 0, 10, 0),
        ("On a scale from -5 to 5, grade -2.", -5, 5, -2), ("Grade: 90%", 0, 100, None),
        ("From 1 to 10, I give it 7", 0, 10, 7), ("On a scale of 0.5 to 1.5, score 1", 0.5, 1.5, 1),
    ],
)  # fmt: skip
def test_the_scale_is_what_was_asked_for(said: str, low: float, high: float, grade: float | None) -> None:
    assert GradeScale(low, high).read(said) == grade


@pytest.mark.parametrize("number", [1, 2, 3.5, 7, 9.25, 10])
def test_what_the_schema_asks_for_is_read(number: float) -> None:
    for scale in (TEN, GradeScale(1, 10, explains=True)):
        assert scale.schema["required"][-1] == "grade"
        document = {"reason": 'It says "Grade: 3", 4/10 and {"score": 5}.', "grade": number}
        answer = json.dumps({name: document[name] for name in scale.schema["required"]})
        assert scale.read(answer) == number
        assert scale.read(f"```json\n{answer}\n```") == number
    assert TEN.rule == "Answer with one number from 1 to 10 and nothing else."
    assert TEN.read(f"I was told: {TEN.rule}") is None
    assert TEN.read(f"I was told: {GradeScale(1, 10, explains=True).rule}") is None
