"""RULER's own samples, put together again from their parts.

The samples in ../shared were written by RULER's scripts (seed 42, Qwen2's tokenizer,
4,096 tokens). Made-up miniatures of the same form are tested everywhere.
"""

import json
import re

import pytest

from gru_mem_jax.data.builders.recipe import StoredQuestion
from gru_mem_jax.data.builders.ruler import upstream_input
from gru_mem_jax.data.builders.ruler.needles import hidden_in
from gru_mem_jax.data.builders.ruler.wording import NEEDLES, needle, needle_prompt
from gru_mem_jax.data.sentences import split_sentences

NAME = {
    "words": r"[^:,\n]+",  # "instinctive-dust storm"
    "numbers": r"\d{7}",
    "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}
FOUR = [
    f"One of the special magic numbers for {key} is: {value}."
    for key, value in zip(("a-b", "c-d", "e-f", "g-h"), range(1000001, 1000005))
]
# Sentences and needles in turn, joined by blanks: depths 0, 50, 50 and 100 percent.
TURNS = ["", FOUR[0], "Plums are blue. Figs are green.", FOUR[1], "", FOUR[2]]
TURNS += ["Kiwis are brown. So it", FOUR[3], ""]
MADE_UP = {
    "niah_single_1": {
        "input": "A special magic number is hidden within the following text. Make "
        "sure to memorize it. I will quiz you about the number afterwards.\n"
        + "The grass is green. The sky is blue. The sun is yellow. Here we go. There "
        "and back again.\n"
        "One of the special magic numbers for red-fig is: 1234567.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There "
        "and back again.\n"
        "What is the special magic number for red-fig mentioned in the provided text?",
        "outputs": ["1234567"],
        "answer_prefix": " The special magic number for red-fig mentioned in the "
        "provided text is",
    },
    "niah_multiquery": {
        "input": "Some special magic numbers are hidden within the following text. "
        "Make sure to memorize it. I will quiz you about the numbers afterwards.\n"
        + " ".join(TURNS)
        + "\nWhat are all the special magic numbers for c-d, g-h, a-b, and e-f "
        "mentioned in the provided text?",
        "outputs": ["1000002", "1000004", "1000001", "1000003"],
        "answer_prefix": " The special magic numbers for c-d, g-h, a-b, and e-f "
        "mentioned in the provided text are",
    },
}


@pytest.fixture
def samples(request, task):
    if request.getfixturevalue("origin") == "made_up":
        return [MADE_UP[task]] if task in MADE_UP else pytest.skip("no miniature")
    folder = request.getfixturevalue("shared_dir") / "data" / "ruler_samples"
    lines = (folder / f"{task}_4096.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def found(pattern, text):
    return re.search(pattern, text, re.DOTALL).groups()


def put_together(draft, texts, glue):
    """The example of a draft."""
    pieces, _ = draft.taken(len(draft.order))
    stored = StoredQuestion(
        id=draft.id,
        question=draft.prompt.question,
        answers=draft.answers,
        pieces=pieces,
        glue=glue,
        metadata=draft.prompt.metadata(),
    )
    return stored.example(texts.__getitem__)


def check_same(example, sample):
    assert upstream_input(example) == sample["input"]
    assert example.metadata["answer_prefix"] == sample["answer_prefix"]
    assert list(example.answers) == list(dict.fromkeys(sample["outputs"]))


@pytest.mark.parametrize("origin", ["made_up", "upstream"])
@pytest.mark.parametrize("task", NEEDLES)
def test_needle_tasks_are_put_together_as_upstream(task, origin, samples):
    rule = NEEDLES[task]
    key, value = NAME[rule.keys], NAME[rule.values]
    sentence = f"One of the special magic {rule.values} for ({key}) is: ({value})\\."
    for sample in samples:
        context, asked = found(
            r"^[^\n]*\n(.*)\nWhat (?:is|are all) the special magic \w+ for "
            r"(.*) mentioned in the provided text\?$",
            sample["input"],
        )
        keys = asked.replace(", and ", ", ").split(", ")
        hidden = re.findall(sentence, context)
        mine = [needle(rule.values, *pair) for pair in hidden]
        if rule.haystack == "essay":
            parts = re.split(sentence.replace("(", "(?:"), context)
            held = [split_sentences(part) for part in parts]
            for part, pieces in zip(parts, held):
                assert " ".join(pieces) == part.strip()
            texts = [""]
            glue = "words"
        else:
            lines = context.split("\n")
            if rule.haystack == "needles":
                # Of the needles one is in question; the others are the haystack.
                assert mine == lines
                hidden = [pair for pair in hidden if pair[0] in keys]
                mine = [needle(rule.values, *pair) for pair in hidden]
            held = [[]]
            for line in lines:
                held[-1].append(line) if line not in mine else held.append([])
            texts = []
            glue = "lines"
        items = [text for part in held for text in part]
        if rule.haystack == "noise":
            (only,) = set(items)
            assert only.endswith("There and back again.")
        # Upstream's numbers of needles, and of those in question.
        assert len(mine) == max(rule.num_keys, rule.num_queries) * rule.num_values
        assert len(keys) == rule.num_queries
        texts += [*items, *mine]
        first = len(texts) - len(mine)
        before = 0
        needles = []
        for number, part in enumerate(held[:-1]):
            before += len(part)
            needles.append((before, first + number, number))
        several = rule.num_queries * rule.num_values > 1
        draft = hidden_in(
            range(first - len(items), first),
            needles,
            {},
            id="0",
            prompt=needle_prompt(rule.values, keys, several),
            answers=tuple(sample["outputs"]),
            lengths=[len(text) for text in mine],
            gap=0 if glue == "words" else None,
        )
        check_same(put_together(draft, texts, glue), sample)
        # The outputs are the values of the keys in question, in their order.
        values = [v for k in keys for name, v in hidden if name == k]
        assert sorted(values) == sorted(sample["outputs"])
        for output in sample["outputs"]:
            assert re.fullmatch(value, output)
