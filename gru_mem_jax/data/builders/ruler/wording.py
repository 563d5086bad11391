"""What RULER's tasks say before and after a text, and to an agent that reads it.

The wordings are RULER's (`scripts/data/synthetic/constants.py`, Apache-2.0), those of
the questions MemAgent's (`taskutils/memory_data/synthetic/constants.py`, Apache-2.0).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from gru_mem_jax.data.example import Example


class Prompt(NamedTuple):
    """What stands around a document.

    Attributes:
      instruction: of RULER, directly before the document, with its worked example.
      query: of RULER, directly after it.
      answer_prefix: of RULER: how the answer begins.
      question: of MemAgent: what an agent is asked that sees the document in parts.
    """

    instruction: str
    query: str
    answer_prefix: str
    question: str

    def metadata(self) -> dict[str, Any]:
        """What `upstream_input` needs."""
        return {
            "instruction": self.instruction,
            "query": self.query,
            "answer_prefix": self.answer_prefix,
        }


def upstream_input(example: Example) -> str:
    """The field `input` of RULER's own files; its `answer_prefix` is in metadata."""
    said = example.metadata
    return f"{said['instruction']}{example.document}{said['query']}"


@dataclasses.dataclass(frozen=True)
class Needles:
    """Settings of a needle task (`synthetic.yaml`).

    Attributes:
      haystack: "noise", "needles" or "essay".
      keys, values: kinds: "words", "numbers" or "uuids".
      num_keys: in the document.
      num_values: of each key.
      num_queries: keys in question.
    """

    haystack: str
    keys: str = "words"
    values: str = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1


NEEDLES = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", values="uuids"),
    "niah_multikey_1": Needles("essay", num_keys=4),
    "niah_multikey_2": Needles("needles"),
    "niah_multikey_3": Needles("needles", keys="uuids", values="uuids"),
    "niah_multivalue": Needles("essay", num_values=4),
    "niah_multiquery": Needles("essay", num_queries=4),
}
TASKS = (*NEEDLES, "vt", "cwe", "fwe", "qa_1", "qa_2")
# Tokens that are kept free for the answer (`tokens_to_generate`).
ANSWER_ROOM = dict.fromkeys(NEEDLES, 128) | {
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}
NOISE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. "
    "There and back again."
)


def needle(kind: str, key: str, value: str) -> str:
    """The sentence that says the value of a key."""
    return f"One of the special magic {kind} for {key} is: {value}."


def needle_prompt(kind: str, keys: Sequence[str], several: bool) -> Prompt:
    """Asks for values.

    Args:
      kind: of the values: "numbers", ...
      keys: in question.
      several: whether there is more than one value in question.
    """
    *others, last = keys
    asked = f"{', '.join(others)}, and {last}" if others else last
    if several:
        hidden = f"Some special magic {kind} are hidden"
        query = f"What are all the special magic {kind} for {asked}"
        said = (
            f"The special magic {kind} for {asked} mentioned in the provided text are"
        )
    else:
        kind = kind[:-1]
        hidden = f"A special magic {kind} is hidden"
        query = f"What is the special magic {kind} for {asked}"
        said = f"The special magic {kind} for {asked} mentioned in the provided text is"
    hidden = f"{hidden} within the following text. Make sure to memorize it."
    query = f"{query} mentioned in the provided text?"
    return Prompt(
        f"{hidden} I will quiz you about the {kind} afterwards.\n",
        f"\n{query}",
        f" {said}",
        f"{hidden} {query}",
    )


_TRACK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following "
    "text."
)


def tracing_prompt(value: str, count: int) -> Prompt:
    """Asks which `count` variables have a value; without a worked example."""
    query = (
        f"Question: Find all variables that are assigned the value {value} in the text "
        "above."
    )
    said = (
        " Answer: According to the chain(s) of variable assignment in the text above, "
        f"{count} variables are assigned the value {value}, they are: "
    )
    return Prompt(f"{_TRACK}\n\n", f"\n{query}", said, f"{_TRACK} {query}")


_LIST = (
    "Below is a numbered list of words. In these words, some appear more often than "
    "others. Memorize the ones that appear most often."
)


def common_words_prompt() -> Prompt:
    """Asks for the common words of a list; without a worked example."""
    query = "Question: What are the 10 most common words in the above list?"
    said = " Answer: The top 10 words that appear most often in the list are:"
    return Prompt(f"{_LIST}\n", f"\n{query}", said, f"{_LIST} {query}")


def frequent_words_prompt() -> Prompt:
    """Asks for the three most frequent words of a coded text."""
    task = (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words. "
    )
    query = (
        "Question: Do not provide any explanation. Please ignore the dots '....'. What "
        "are the three most frequently appeared words in the above coded text?"
    )
    said = (
        " Answer: According to the coded text above, the three most frequently "
        "appeared words are:"
    )
    return Prompt(task, f"\n{query}", said, task + query)


def reading_prompt(question: str) -> Prompt:
    """Asks a question on documents."""
    task = "Answer the question based on the given documents."
    only = f"{task} Only give me the answer and do not output any other words."
    return Prompt(
        f"{only}\n\nThe following are given documents.\n\n",
        f"\n\n{only}\n\nQuestion: {question}",
        " Answer:",
        f"{task} {question}",
    )


def with_worked_example(
    prompt: Prompt, shown: Prompt, document: str, answer: str
) -> Prompt:
    """The prompt after one that is answered, as in vt and cwe.

    Args:
      prompt: of a question.
      shown: of the worked example.
      document: of the worked example.
      answer: to it, as it follows the answer prefix, with what separates the two.
    """
    before = f"{shown.instruction}{document}{shown.query}{shown.answer_prefix}{answer}"
    return prompt._replace(instruction=before + prompt.instruction)
