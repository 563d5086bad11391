r"""Scores answers: one function per convention, each as in its benchmark.

`score` converts predictions and gold answers to plain text (`agent.tex`) before it
compares them. Differences from a benchmark's script are listed in its function.
"""

import collections
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence

from gru_mem_jax.agent.parse import extract_boxed
from gru_mem_jax.agent.tex import plain_text

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BRACE = re.compile(r"[{}]")
_PLAIN = re.compile(r"[^\\{}]*")
_BARE_POINT = re.compile(r"(?<![\w.)\]])\.(?=\d)")
# In the order of the script; only in the last two do blanks matter.
_TEX_SPELLINGS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    (" .", " 0."),
    ("{.", "{0."),
)
_VERDICTS = frozenset({"yes", "no", "noanswer"})
_BLANK_OR_SIGN = re.compile(r"[\s%$]")


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and doubled white space.

    SQuAD's normalisation (Rajpurkar et al. 2016, `evaluate-v2.0.py`), HotpotQA's and
    MemAgent's too. Punctuation is that of ASCII; no other form of Unicode is changed.
    """
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _forms(text: str) -> Iterator[str]:
    """Forms to compare; the first in which the gold answer is not empty is used."""
    yield normalize_answer(text)
    yield " ".join(text.lower().translate(_PUNCTUATION).split())
    yield " ".join(text.lower().split())


def _compared(prediction: str, answer: str) -> tuple[str, str]:
    pairs = zip(_forms(prediction), _forms(answer))
    return next(((said, gold) for said, gold in pairs if gold), ("", ""))


def _same(prediction: str, answer: str) -> bool:
    said, gold = _compared(prediction, answer)
    return said == gold != ""


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals any gold answer after normalisation, else 0.0.

    SQuAD's (Rajpurkar et al. 2018, `evaluate-v2.0.py`) and HotpotQA's. Unlike them, a
    gold answer of which normalisation leaves nothing ("A", "The", "?") is compared
    with its articles, or with its punctuation too where nothing else is left: "A" is
    right for "A", and "" and "the" are wrong.
    """
    return float(any(_same(prediction, answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 of the normalised words, over the gold answers, in 0..1.

    SQuAD's (Rajpurkar et al. 2018, `evaluate-v2.0.py`): words count as often as they
    occur; 0.0 where the prediction has none. MuSiQue's (Trivedi et al. 2022,
    `metrics/answer.py`) is the same, with its aliases as gold answers. Unlike the
    scripts, a gold answer without words is compared as `exact_match` does.
    """
    return max((_f1(prediction, answer) for answer in answers), default=0.0)


def _f1(prediction: str, answer: str) -> float:
    said = collections.Counter(normalize_answer(prediction).split())
    gold = collections.Counter(normalize_answer(answer).split())
    if not gold:
        return float(_same(prediction, answer))
    # The harmonic mean of precision and recall.
    return 2 * (said & gold).total() / (said.total() + gold.total())


def hotpotqa_f1(prediction: str, answers: Sequence[str]) -> float:
    """As `f1`, but "yes", "no" and "noanswer" score 0.0 unless both sides are the same.

    HotpotQA's (Yang et al. 2018, `hotpot_evaluate_v1.py`) and 2WikiMultihopQA's (Ho et
    al. 2020, `2wikimultihop_evaluate_v1.1.py`, whose aliases are gold answers): "yes it
    is" is worth nothing where the answer is "yes".
    """
    return max((_hotpotqa_f1(prediction, answer) for answer in answers), default=0.0)


def _hotpotqa_f1(prediction: str, answer: str) -> float:
    said, gold = normalize_answer(prediction), normalize_answer(answer)
    if said != gold and (said in _VERDICTS or gold in _VERDICTS):
        return 0.0
    return _f1(prediction, answer)


def match_equivalent(prediction: str, answers: Sequence[str]) -> float:
    r"""1.0 if the prediction is equivalent to any gold answer, else 0.0.

    What MemAgent is rewarded for (Yu et al. 2025, `reward_score/hotpotqa.py`): equal
    without case, blanks, degree signs of TeX, `\left`, `\right` and `\!`, with one
    spelling of fractions. Punctuation and articles do count. Unlike the script, all
    white space is left out, and percent and dollar signs with and without backslash,
    unless nothing else is left of the gold answer.
    """
    return float(any(_equivalent(prediction, answer) for answer in answers))


def _equivalent(prediction: str, answer: str) -> bool:
    if stripped := _strip_tex(answer):
        return _strip_tex(prediction) == stripped
    return prediction.lower().split() == answer.lower().split() != []


def _strip_tex(text: str) -> str:
    text = text.lower()
    for spelling, other in _TEX_SPELLINGS:
        text = text.replace(spelling, other)
    return _BLANK_OR_SIGN.sub("", text.replace("\\%", "").replace("\\$", ""))


def match_part(prediction: str, answers: Sequence[str]) -> float:
    """Share of the gold answers that occur in the prediction, in 0..1.

    RULER's `string_match_all` (Hsieh et al. 2024, `eval/synthetic/constants.py`):
    case-folded substrings.
    """
    if not answers:
        return 0.0
    folded = prediction.lower()
    return sum(a.lower() in folded for a in answers) / len(answers)


def match_all(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if every gold answer occurs in the prediction, else 0.0.

    Of this library: 1 only where RULER's `string_match_all` (`match_part`) is 1.
    """
    return float(bool(answers) and match_part(prediction, answers) == 1.0)


def match_some(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if any gold answer occurs in the prediction, else 0.0.

    RULER's `string_match_part` (Hsieh et al. 2024, `eval/synthetic/constants.py`), of
    qa_1 and qa_2: case-folded substrings.
    """
    folded = prediction.lower()
    return float(any(answer.lower() in folded for answer in answers))


def match_any(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction contains any gold answer, or lies in one.

    MemAgent's `sub_em` (Yu et al. 2025, `memory_eval/utils`), for answers inside a
    boxed sentence; it has one gold answer. Word boundaries are ignored: "e" lies in
    "Beatles", so that this is for evaluation, not for rewards. Unlike the script, a
    prediction that normalisation empties ("the", "...") is wrong, and of a gold answer
    that it empties the words must occur, compared as in `exact_match`.
    """
    return float(any(_contains(prediction, answer) for answer in answers))


def _contains(prediction: str, answer: str) -> bool:
    said, gold = _compared(prediction, answer)
    if not said or not gold:
        return False
    if normalize_answer(answer):
        return gold in said or said in gold
    return f" {gold} " in f" {said} "


SCORERS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_match,
    "f1": f1,
    "hotpotqa_f1": hotpotqa_f1,
    "all": match_all,
    "part": match_part,
    "any": match_some,
    "boxed": match_any,
    "equivalent": match_equivalent,
}


def score(prediction: str | None, answers: Sequence[str], scoring: str) -> float:
    r"""Scores one answer in 0..1; no answer and an empty one score 0.

    Both sides are converted to plain text, without braces around the whole; gold
    answers that are then empty are ignored. A number may lack the 0 before its point:
    the better score of the two spellings is returned (".5" is "0.5").

    Args:
      prediction: the answer extracted from the completion; None: there was none.
      answers: gold answers of `Example.answers`.
      scoring: one of `SCORERS`, as in `Example.scoring`.
    """
    said = _comparable(prediction or "")
    gold = _gold(answers)
    if not said or not gold:
        return 0.0
    scorer = SCORERS[scoring]
    full_said, *full_gold = (_BARE_POINT.sub("0.", text) for text in (said, *gold))
    return max(scorer(said, gold), scorer(full_said, full_gold))


def _gold(answers: Sequence[str]) -> list[str]:
    return [text for answer in answers if (text := _comparable(answer))]


def _comparable(text: str) -> str:
    text = plain_text(text)
    lead = len(text) - len(text.lstrip("{"))
    trail = len(text) - len(text.rstrip("}"))
    depth = least = lead
    for brace in _BRACE.findall(text, lead, max(lead, len(text) - trail)):
        depth += 1 if brace == "{" else -1
        least = min(least, depth)
    around = max(0, min(lead, trail, least))
    return text[around : len(text) - around].strip()


def full_answer(answers: Sequence[str], scoring: str) -> str | None:
    r"""The content of a \boxed{} that scores 1; None if there is none.

    The gold answers are tried in order, with and without their braces: an empty answer,
    or one with unpaired braces where braces count, cannot be expressed.

    Args:
      answers: gold answers of `Example.answers`.
      scoring: one of `SCORERS`.
    """
    gold = _gold(answers)
    said = [", ".join(gold)] if scoring in ("all", "part") else gold
    for text in said:
        if text and _PLAIN.fullmatch(text):  # quick, for files of many questions
            return text
        for form in (text, text.translate({ord("{"): None, ord("}"): None})):
            if score(extract_boxed(rf"\boxed{{{form}}}"), answers, scoring) == 1.0:
                return form
    return None


def unmatchable(answers: Sequence[str], scoring: str) -> str | None:
    """Why no answer can score 1; None if one can."""
    if full_answer(answers, scoring) is not None:
        return None
    return f"no answer can match answers {list(answers)!r:.80} by scoring {scoring!r}"
