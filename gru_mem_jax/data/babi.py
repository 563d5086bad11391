"""bAbI's stories (Weston et al., arXiv 1502.05698): facts, and questions on them.

A line of a file is `1 Mary moved to the bathroom.`, or a question, its answer and the
numbers of the facts that it follows from, with tabs between:
`3 Where is Mary?<tab>bathroom<tab>1`. Number 1 begins a new story.
"""

import hashlib
import re
from typing import NamedTuple

from gru_mem_jax.data import files
from gru_mem_jax.data.scoring import unmatchable
from gru_mem_jax.errors import InputError

WHERE = (
    "take one of bAbI's tasks_1-20_v1-2, such as en-10k/qa1_single-supporting-fact_"
    "test.txt (github.com/booydar/babilong has them in data/)"
)
_LINE = re.compile(r"([0-9]{1,9}) (.*)")


class Story(NamedTuple):
    """A question with the facts before it.

    Attributes:
      line: of the question in the file, from 1.
      facts: in order.
      question: text.
      answer: as in the file; several are separated by commas.
      support: indices in `facts` of those that the answer follows from, in the order
        of the file, each once.
    """

    line: int
    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]


class Stories(NamedTuple):
    """What a file holds.

    Attributes:
      stories: one for each question.
      labels: all answers of the file, those of a list one by one.
      sha256: of the file.
    """

    stories: tuple[Story, ...]
    labels: tuple[str, ...]
    sha256: str


def read_babi(path: str) -> Stories:
    """Reads a file.

    Raises:
      InputError: it cannot be read, a line has another form, or it has no question:
        names file and line, and where the files can be had.
    """
    try:
        data = files.read_file(path)
        stories = _stories(data, path)
    except InputError as error:
        raise InputError(f"{error}; {WHERE}") from None
    labels = {label for story in stories for label in answers(story.answer)}
    return Stories(
        tuple(stories), tuple(sorted(labels)), hashlib.sha256(data).hexdigest()
    )


def answers(answer: str) -> tuple[str, ...]:
    """The answers of a list; a path ("n,e") is one, as in BABILong."""
    if len(answer) <= 3:
        return (answer,)
    return tuple(dict.fromkeys(part for part in answer.split(",") if part.strip()))


def _stories(data: bytes, path: str) -> list[Story]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from None
    stories: list[Story] = []
    facts: dict[int, str] = {}  # by number
    before = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        match = _LINE.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise InputError(
                f"{where}: expected a number, a blank and a text, got {line!r:.60}"
            )
        own = int(match[1])
        if own == 1:
            facts = {}
        elif own != before + 1:
            raise InputError(f"{where}: number {own} follows {before}")
        before = own
        said, *rest = match[2].split("\t")
        if not said.strip():
            raise InputError(f"{where}: holds no text")
        if not rest:
            facts[own] = said.strip()
        else:
            stories.append(_story(said.strip(), rest, facts, where, number))
    if not stories:
        raise InputError(f"{path}: holds no question")
    return stories


def _story(
    question: str, rest: list[str], facts: dict[int, str], where: str, line: int
) -> Story:
    if len(rest) != 2:
        raise InputError(
            f"{where}: expected a question, its answer and numbers of facts, with tabs "
            f"between, got {len(rest) + 1} parts"
        )
    answer, numbers = rest[0].strip(), rest[1].split()
    if not answer or not answers(answer):
        raise InputError(f"{where}: the answer is empty")
    if problem := unmatchable(answers(answer), "all"):
        raise InputError(f"{where}: {problem}")
    index = {number: i for i, number in enumerate(facts)}
    for number in numbers:
        if not number.isascii() or not number.isdigit() or int(number) not in index:
            raise InputError(
                f"{where}: {number!r:.20} is not the number of a fact before it"
            )
    if not numbers:
        raise InputError(f"{where}: names no fact that the answer follows from")
    support = tuple(dict.fromkeys(index[int(number)] for number in numbers))
    return Story(line, tuple(facts.values()), question, answer, support)
