"""Is an answer right? One function per convention, each as its benchmark has it."""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Mark-up that does not change what an answer says, and white space.
_TEX_NOISE = re.compile(r"\\!|\\left|\\right|\^\{\\circ\}|\^\\circ|\\[$%]|\s")


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and doubled white space.

    SQuAD's normalisation (Rajpurkar et al. 2016, `evaluate-v2.0.py`).
    """
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals any gold answer after normalisation, else 0.0."""
    normalized = normalize_answer(prediction)
    return float(any(normalized == normalize_answer(a) for a in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 of the normalised words, over the gold answers, in 0..1.

    SQuAD's (Rajpurkar et al. 2018, `evaluate-v2.0.py`): words count as often as they
    occur; where either side has no words, 1.0 if both have none.
    """
    return max((_f1(prediction, answer) for answer in answers), default=0.0)


def _f1(prediction: str, answer: str) -> float:
    said = collections.Counter(normalize_answer(prediction).split())
    gold = collections.Counter(normalize_answer(answer).split())
    if not said or not gold:
        return float(said == gold)
    # The harmonic mean of precision and recall.
    return 2 * (said & gold).total() / (said.total() + gold.total())


def match_equivalent(prediction: str, answers: Sequence[str]) -> float:
    r"""1.0 if the prediction is equivalent to any gold answer, else 0.0.

    What MemAgent is rewarded for (Yu et al. 2025): equal without case, white space and
    mark-up of TeX, after Hendrycks et al. 2021 (`math_equivalence.py`). The content of
    the last \boxed{} is the prediction. Punctuation and articles do count.
    """
    stripped = _strip_tex(prediction)
    return float(any(stripped == _strip_tex(answer) for answer in answers))


def _strip_tex(text: str) -> str:
    text = text.lower().replace("\\\\", "\\")
    text = re.sub(r"[td]frac", "frac", text)
    text = re.sub(r"([ {])\.", r"\g<1>0.", text)
    return _TEX_NOISE.sub("", text)


def match_part(prediction: str, answers: Sequence[str]) -> float:
    """Share of the gold answers that occur in the prediction, in 0..1.

    RULER's `string_match_all` (Hsieh et al. 2024): case-folded substrings.
    """
    if not answers:
        return 0.0
    folded = prediction.lower()
    return sum(a.lower() in folded for a in answers) / len(answers)


def match_all(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if every gold answer occurs in the prediction, else 0.0."""
    return float(bool(answers) and match_part(prediction, answers) == 1.0)


def match_any(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction contains any normalised gold answer.

    MemAgent's `sub_em` (Yu et al. 2025), for answers inside a boxed sentence.
    """
    normalized = f" {normalize_answer(prediction)} "
    gold = [normalize_answer(a) for a in answers]
    return float(any(g and f" {g} " in normalized for g in gold))


SCORERS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_match,
    "f1": f1,
    "all": match_all,
    "part": match_part,
    "boxed": match_any,
    "equivalent": match_equivalent,
}


def score(prediction: str | None, answers: Sequence[str], scoring: str) -> float:
    """Scores one answer in 0..1; no answer scores 0.

    Args:
      prediction: the answer taken out of the completion, or None if there was none.
      answers: gold answers of `Example.answers`.
      scoring: one of `SCORERS`, as in `Example.scoring`.
    """
    return 0.0 if prediction is None else SCORERS[scoring](prediction, answers)
