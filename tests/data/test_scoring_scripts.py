r"""Scores beside the official scripts: where they agree, and where they are to differ.

SQuAD's `evaluate-v2.0.py` and MuSiQue's `metrics/answer.py` (exact, f1), HotpotQA's
`hotpot_evaluate_v1.py` and 2WikiMultihopQA's `2wikimultihop_evaluate_v1.1.py` (exact,
hotpotqa_f1), RULER's `string_match_all` (part) and `string_match_part` (any),
MemAgent's `sub_em` (boxed) and `reward_score/hotpotqa.py` (equivalent), read branch by
branch.
"""

import pytest

from gru_mem_jax.data.scoring import SCORERS, score, unmatchable

# What the script gives for these is what is expected.
AGREE = {
    "exact": [
        # Case, also beyond ASCII.
        ("ADA Lovelace", ["ada lovelace"], 1.0),
        ("ÉCOLE", ["école"], 1.0),
        ("Ada", ["Eda"], 0.0),
        # Punctuation of ASCII, also within words and numbers.
        ("U.S.A.", ["USA"], 1.0),
        ("rock'n'roll!", ["rocknroll"], 1.0),
        ("well-known", ["well known"], 0.0),
        ("Ada; Bo", ["Ada, Bo"], 1.0),
        ("a/b", ["ab"], 1.0),
        # Other punctuation stays.
        ("“yes”", ["yes"], 0.0),
        ("it’s", ["it's"], 0.0),
        ("1914–1918", ["1914-1918"], 0.0),
        ("1914–1918", ["1914–1918"], 1.0),
        ("¿Qué?", ["¿qué"], 1.0),
        ("Ada…", ["Ada"], 0.0),
        # Articles are whole words, and are looked for after the punctuation.
        ("The Beatles", ["Beatles"], 1.0),
        ("an owl and a cat", ["owl and cat"], 1.0),
        ("theatre", ["atre"], 0.0),
        ("A-ha", ["ha"], 0.0),
        ("t.h.e end", ["end"], 1.0),
        ("the_end", ["end"], 0.0),
        ("der Hund", ["Hund"], 0.0),
        # White space of any kind, at any length.
        ("New \n\t York", ["New York"], 1.0),
        ("New\u00a0York", ["New York"], 1.0),
        ("New\u3000York", ["New York"], 1.0),
        ("NewYork", ["New York"], 0.0),
        ("New\u200bYork", ["New York"], 0.0),
        # Forms of Unicode are not joined.
        ("caf\u00e9", ["cafe\u0301"], 0.0),
        ("\uff14\uff12", ["42"], 0.0),
        ("caf\u00e9", ["cafe"], 0.0),
        ("straße", ["strasse"], 0.0),
        # Numbers are text without punctuation.
        ("1,000", ["1000"], 1.0),
        ("1 000", ["1000"], 0.0),
        ("1.5", ["15"], 1.0),
        ("3.0", ["3"], 0.0),
        ("-5", ["5"], 1.0),
        ("+5", ["5"], 1.0),
        ("−5", ["5"], 0.0),
        ("five", ["5"], 0.0),
        ("1/2", ["12"], 1.0),
        # Currencies, percent, units, dates.
        ("$5 million", ["5 million"], 1.0),
        ("€5", ["5"], 0.0),
        ("€5", ["€5"], 1.0),
        ("50%", ["50"], 1.0),
        ("50 percent", ["50%"], 0.0),
        ("10km", ["10 km"], 0.0),
        ("10 km", ["10"], 0.0),
        ("May 5, 1815", ["5 May 1815"], 0.0),
        ("May 5, 1815", ["May 5 1815"], 1.0),
        # The best of several gold answers.
        ("Bo", ["Ada", "Bo"], 1.0),
        ("Cy", ["Ada", "Bo"], 0.0),
        # Nothing is left of the prediction alone.
        ("the", ["Beatles"], 0.0),
        ("...", ["Ada"], 0.0),
    ],
    "f1": [
        ("red balloon", ["the red balloon"], 1.0),
        ("the red balloon ride", ["A red balloon"], 0.8),
        ("balloon", ["red balloon"], 2 / 3),
        ("green", ["red"], 0.0),
        # Words count as often as they occur, in any order.
        ("red red", ["red"], 2 / 3),
        ("red red blue", ["red red"], 0.8),
        ("York New", ["New York"], 1.0),
        ("is it yes", ["yes"], 0.5),
        ("yes it is", ["yes"], 0.5),
        ("no", ["no answer"], 2 / 3),
        # The best of several gold answers.
        ("blue", ["red", "dark blue"], 2 / 3),
        ("dark blue sky", ["sky", "blue sky"], 0.8),
        # Normalisation as in exact.
        ("$1,000", ["1000"], 1.0),
        ("50% of it", ["50"], 0.5),
        ("New\u00a0York City", ["new york"], 0.8),
        ("caf\u00e9", ["cafe\u0301"], 0.0),
        # Nothing is left of the prediction.
        ("the", ["red"], 0.0),
        ("?!", ["red"], 0.0),
    ],
    "hotpotqa_f1": [
        # Where neither is yes, no or noanswer, as f1.
        ("red balloon ride", ["A red balloon"], 0.8),
        ("red red", ["red"], 2 / 3),
        ("$1,000", ["1000"], 1.0),
        ("not", ["no"], 0.0),
        ("the", ["red"], 0.0),
        # Else both are the same, or it is worth nothing.
        ("Yes.", ["yes"], 1.0),
        ("the no", ["no"], 1.0),
        ("noanswer", ["noanswer"], 1.0),
        ("yes it is", ["yes"], 0.0),
        ("yes", ["yes it is"], 0.0),
        ("no", ["no answer"], 0.0),
        ("noanswer", ["no answer"], 0.0),
        ("no no", ["no"], 0.0),
        ("no", ["yes"], 0.0),
        # Beside other words they are words.
        ("Ada yes", ["Ada"], 2 / 3),
        # The best of several gold answers, each by the rule.
        ("no way", ["no", "no way out"], 0.8),
        ("yes Ada", ["yes", "Ada"], 2 / 3),
        ("New York", ["NYC", "New York City", "York"], 0.8),
        ("American", ["United States", "American", "America"], 1.0),
    ],
    "part": [
        ("12, 34", ["12", "34", "56", "78"], 0.5),
        ("12, 34", ["12", "34"], 1.0),
        ("56", ["12", "34"], 0.0),
        ("It was ADA.", ["ada"], 1.0),
        ("ada", ["ADA", "BO"], 0.5),
        # Substrings, not words; no normalisation but case.
        ("1234", ["12", "34"], 1.0),
        ("York", ["New York"], 0.0),
        ("New  York", ["New York"], 0.0),
        ("Beatles", ["The Beatles"], 0.0),
        ("1000", ["1,000"], 0.0),
        ("50", ["50%"], 0.0),
        ("50% or more", ["50%"], 1.0),
        ("“yes”", ["yes"], 1.0),
        ("it’s", ["it's"], 0.0),
        ("ÉCOLE", ["école"], 1.0),
        ("caf\u00e9", ["cafe\u0301"], 0.0),
        ("what?", ["?"], 1.0),
        ("the", ["The"], 1.0),
        ("A", ["A", "B"], 0.5),
    ],
    "boxed": [
        ("It was the Beatles.", ["Beatles"], 1.0),
        ("It was Ada", ["Bo"], 0.0),
        # The prediction in the gold answer.
        ("York", ["New York"], 1.0),
        ("in York", ["New York"], 0.0),
        # Letters, not words.
        ("Beatlesque", ["Beatles"], 1.0),
        ("eat", ["Beatles"], 1.0),
        ("not so", ["no"], 1.0),
        # Normalised as in exact.
        ("$1,000 in all", ["1000"], 1.0),
        ("1 000", ["1000"], 0.0),
        ("50%", ["50 percent"], 1.0),
        ("“Ada”", ["ada"], 1.0),
        ("it’s", ["it's"], 0.0),
        ("New\u00a0York", ["new york"], 1.0),
        ("caf\u00e9s", ["cafe\u0301"], 0.0),
        ("A red, a blue", ["red blue"], 1.0),
        ("red and blue", ["red blue"], 0.0),
        # Of several gold answers the best.
        ("It was Bo", ["Ada", "Bo"], 1.0),
        ("It was Cy", ["Ada", "Bo"], 0.0),
    ],
    "equivalent": [
        ("New York\nCity", ["new york city"], 1.0),
        ("newyork", ["New York"], 1.0),
        ("ÉCOLE", ["école"], 1.0),
        ("Ada", ["Eda"], 0.0),
        # Articles and punctuation count.
        ("the Beatles", ["Beatles"], 0.0),
        ("Beatles.", ["Beatles"], 0.0),
        ("it's", ["its"], 0.0),
        ("well-known", ["well known"], 0.0),
        ("“yes”", ["yes"], 0.0),
        ("caf\u00e9", ["cafe\u0301"], 0.0),
        ("\uff14\uff12", ["42"], 0.0),
        ("Paris or London", ["Paris"], 0.0),
        # \! is nothing.
        (r"1\!000", ["1000"], 1.0),
        (r"x\!=5", ["x=4"], 0.0),
        # Two backslashes are one.
        (r"\\frac{1}{2}", [r"\frac{1}{2}"], 1.0),
        (r"\\pi", [r"\pi"], 1.0),
        (r"\\pi", ["pi"], 0.0),
        # One spelling of fractions, and no more.
        (r"\dfrac{1}{2}", [r"\frac{1}{2}"], 1.0),
        (r"\tfrac{1}{2}", [r"\dfrac{1}{2}"], 1.0),
        (r"\frac12", [r"\frac{1}{2}"], 0.0),
        (r"\frac{1}{2}", ["1/2"], 0.0),
        (r"\frac{1}{2}", ["0.5"], 0.0),
        # \left and \right, also of an arrow.
        (r"\left(1, 2\right)", ["(1,2)"], 1.0),
        (r"\left[1, 2\right)", ["(1,2)"], 0.0),
        (r"\leftarrow", ["arrow"], 1.0),
        (r"\rightarrow", [r"\leftarrow"], 1.0),
        # Degrees.
        (r"90^\circ", ["90"], 1.0),
        (r"90^{\circ}", ["90"], 1.0),
        (r"90^\circ", ["9"], 0.0),
        ("90°", ["90"], 0.0),
        # Dollars and percent with a backslash.
        (r"\$5", ["5"], 1.0),
        (r"\$5", ["6"], 0.0),
        (r"50\%", ["50"], 1.0),
        (r"50\%", ["5"], 0.0),
        ("€5", ["5"], 0.0),
        ("50 percent", ["50%"], 0.0),
        # A zero before the point, after a blank and after a brace.
        ("x = .5", ["x = 0.5"], 1.0),
        ("x = .5", ["x = 0.6"], 0.0),
        (r"\sqrt{.5}", [r"\sqrt{0.5}"], 1.0),
        (r"\sqrt{.5}", [r"\sqrt{5}"], 0.0),
        # Numbers are text.
        ("1.5", ["15"], 0.0),
        ("1,000", ["1000"], 0.0),
        ("3.0", ["3"], 0.0),
        ("-5", ["5"], 0.0),
        ("+5", ["5"], 0.0),
        (r"\sqrt3", [r"\sqrt{3}"], 0.0),
        (r"\{1, 2\}", [r"\{1,2\}"], 1.0),
        (r"\{1, 2\}", ["(1, 2)"], 0.0),
        ("x^{2}", ["x^2"], 0.0),
        # The best of several gold answers.
        ("NYC", ["new york city", "nyc"], 1.0),
        ("LA", ["new york city", "nyc"], 0.0),
    ],
}  # fmt: skip

# Where the script gives another value, on purpose.
DIFFER = {
    "exact": [
        # Nothing is left of the gold answer: articles and punctuation then count.
        ("A", ["B", "A"], 1.0),
        ("the", ["A"], 0.0),
        ("...", ["A"], 0.0),
        ("an", ["The"], 0.0),
        ("a", ["?"], 0.0),
        ("...", ["?"], 0.0),
        # A zero before the point.
        (".5", ["0.5"], 1.0),
        ("-.5", ["-0.50", "-0.5"], 1.0),
        ("$0.5", ["$.5"], 1.0),
        # TeX around text.
        (r"\text{Ada Lovelace}", ["Ada Lovelace"], 1.0),
        ("New York", ["New~York"], 1.0),
    ],
    "f1": [
        ("a", ["The"], 0.0),
        ("...", ["A"], 0.0),
        ("?", ["!"], 0.0),
        ("A", ["red", "A"], 1.0),
        (".5 km", ["0.5 km"], 1.0),
        (r"\textbf{yes}", ["yes"], 1.0),
        ("dark blue", [r"dark\ \mathrm{blue}"], 1.0),
    ],
    "hotpotqa_f1": [
        # The scripts give nothing for nothing.
        ("A", ["A"], 1.0),
        ("?", ["?", "red"], 1.0),
        ("the", ["A"], 0.0),
        (r"\text{yes}", ["yes"], 1.0),
        (".5 km", ["0.5 km"], 1.0),
    ],
    "part": [
        ("New York", ["New~York"], 1.0),
        (r"\text{Ada} and \emph{Bo}", ["Ada and Bo"], 1.0),
        (r"50\%", ["50%"], 1.0),
        ("5%", [r"5\%"], 1.0),
        (".5", ["0.5"], 1.0),
        # White space around, and empty gold answers.
        ("Ada", [" Ada "], 1.0),
        ("Ada", ["", "Bo"], 0.0),
    ],
    "boxed": [
        ("the", ["Beatles"], 0.0),
        ("...", ["Ada"], 0.0),
        ("the", ["A"], 0.0),
        ("B", ["A"], 0.0),
        ("B", ["?"], 0.0),
        ("of Ada", ["An"], 0.0),
        ("0.5", [".5 km"], 1.0),
        (r"\textbf{yes}", ["it is yes"], 1.0),
    ],
    "equivalent": [
        ("New\tYork", ["New York"], 1.0),
        ("New\u00a0York", ["New York"], 1.0),
        # Percent and dollars without a backslash too.
        ("50%", ["50"], 1.0),
        (r"50\%", ["50%"], 1.0),
        ("50%", [r"50\%"], 1.0),
        (r"\$5 million", ["$5 million"], 1.0),
        (r"\$", [r"\%"], 0.0),
        (".5", ["0.5"], 1.0),
        (r"\text{Ada Lovelace}", ["Ada Lovelace"], 1.0),
        ("Ada Lovelace", [r"\mathrm{Ada Lovelace}"], 1.0),
        ("{42}", ["42"], 1.0),
        ("$x$", ["x"], 1.0),
        (r"10\,km", ["10 km"], 1.0),
    ],
}  # fmt: skip


def rows(table):
    return [(how, *row) for how, group in table.items() for row in group]


@pytest.mark.parametrize(("how", "prediction", "answers", "value"), rows(AGREE))
def test_the_scripts_value(how, prediction, answers, value):
    assert score(prediction, answers, how) == pytest.approx(value)


@pytest.mark.parametrize(("how", "prediction", "answers", "value"), rows(DIFFER))
def test_another_value_than_the_scripts(how, prediction, answers, value):
    assert score(prediction, answers, how) == pytest.approx(value)


@pytest.mark.parametrize(("_how", "prediction", "answers", "value"), rows(
    {"all": AGREE["part"] + DIFFER["part"]}
))  # fmt: skip
def test_all_is_the_whole_of_part(_how, prediction, answers, value):
    assert score(prediction, answers, "all") == float(value == 1.0)
    assert score(prediction, answers, "any") == float(value > 0.0)


@pytest.mark.parametrize("how", SCORERS)
def test_a_gold_answer_that_normalises_to_nothing(how):
    for gold in ("A", "An", "The", "?", "—", "...", "a the", "%", "$", r"\%"):
        said = gold.replace("\\", "")
        assert score(said, [gold], how) == 1.0
        assert score(said.lower(), [gold], how) == 1.0
        assert unmatchable([gold], how) is None
        for wrong in ("", " ", "B", "Bo", "no", "!", ".", "“”", r"\text{}", None):
            assert score(wrong, [gold], how) == 0.0
    for wrong in ("the", "an", "...", "!?"):
        assert score(wrong, ["Xerxes"], how) == 0.0
        if how not in ("all", "part", "any"):  # "a" occurs in "an"
            assert score(wrong, ["A"], how) == 0.0
    # As words, and without the punctuation around: choices of a test.
    for said in ("(A)", "A.", "**A**", r"\text{A}", "{A}"):
        assert how == "equivalent" or score(said, ["A"], how) == 1.0
    assert score("The answer is A", ["A"], "boxed") == 1.0
    assert score("Banana", ["A"], "boxed") == 0.0
