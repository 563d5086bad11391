"""RULER's own samples, put together again from their parts.

The samples in ../shared were written by RULER's scripts (seed 42, Qwen2's tokenizer,
4,096 tokens). Made-up miniatures of the same form are tested where it is missing, too.
"""

import collections
import json
import re

import numpy as np
import pytest
from ruler_miniatures import MADE_UP

from gru_mem_jax.data.builders import Length, Ruler
from gru_mem_jax.data.builders.recipe import StoredQuestion
from gru_mem_jax.data.builders.ruler import upstream_input
from gru_mem_jax.data.builders.ruler.fitting import Draft
from gru_mem_jax.data.builders.ruler.needles import hidden_in
from gru_mem_jax.data.builders.ruler.tracing import HOPS, chain
from gru_mem_jax.data.builders.ruler.wording import (
    ANSWER_ROOM,
    NEEDLES,
    NOISE,
    common_words_prompt,
    frequent_words_prompt,
    needle,
    needle_prompt,
    reading_prompt,
    tracing_prompt,
    with_worked_example,
)
from gru_mem_jax.data.sentences import split_sentences
from gru_mem_jax.tokenization import TextTokenizer

NAME = {
    "words": r"[^:,\n]+",  # "instinctive-dust storm"
    "numbers": r"\d{7}",
    "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


@pytest.fixture
def samples(request, task):
    if request.getfixturevalue("origin") == "made_up":
        return [MADE_UP[task]]
    folder = request.getfixturevalue("shared_dir") / "data" / "ruler_samples"
    lines = (folder / f"{task}_4096.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def of(*tasks):
    """Runs a test with upstream's samples of tasks, and with those that are made up."""
    return pytest.mark.parametrize(
        ("task", "origin"),
        [(task, "upstream") for task in tasks]
        + [(task, "made_up") for task in tasks if task in MADE_UP],
    )


def found(pattern, text):
    return re.search(pattern, text, re.DOTALL).groups()


def put_together(draft, texts, glue):
    """The example of a draft."""
    pieces, _ = draft.taken(len(draft.order))
    stored = StoredQuestion(
        id=draft.id,
        question=draft.prompt.question,
        answers=draft.answers,
        pieces=pieces.tolist(),
        glue=glue,
        metadata=draft.prompt.metadata(),
    )
    return stored.example(texts.__getitem__)


def check_same(example, sample):
    assert upstream_input(example) == sample["input"]
    assert example.metadata["answer_prefix"] == sample["answer_prefix"]
    assert list(example.answers) == list(dict.fromkeys(sample["outputs"]))


@of(*NEEDLES)
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


def around(prompt):
    return re.escape(prompt.instruction) + "(.*)" + re.escape(prompt.query)


@of("vt")
def test_tracing_is_put_together_as_upstream(task, origin, samples):
    for sample in samples:
        worked, asked = sample["input"].split("\n\nMemorize and track")
        asked = "Memorize and track" + asked
        names = sample["outputs"]
        value = re.search(r"VAR [A-Z]{5} = (\d{5})\n", asked)[1]
        prompt = tracing_prompt(value, len(names))
        (context,) = found(f"^{around(prompt)}$", asked)
        # The worked example: three letters, and all lines of 500 tokens.
        first = re.search(r"VAR [A-Z]{3} = (\d{5})\n", worked)[1]
        shown = tracing_prompt(first, len(names))
        inner, said = found(
            f"^{around(shown)}{re.escape(shown.answer_prefix)} (.*)$", worked
        )
        for text, vars_ in ((inner, said.split()), (context, names)):
            lines = [line for line in text.split("\n") if line != NOISE]
            value_of = first if text is inner else value
            assert lines == chain(vars_, value_of)
            assert {len(name) for name in vars_} == {3 if text is inner else 5}
        assert len(names) == HOPS + 1
        texts = [NOISE, *chain(names, value)]
        before, needles = 0, []
        for line in context.split("\n"):
            if line == NOISE:
                before += 1
            else:
                needles.append((before, texts.index(line), len(needles)))
        draft = hidden_in(
            [0] * before,
            needles,
            {},
            id="0",
            prompt=with_worked_example(prompt, shown, inner, f" {said}\n\n"),
            answers=tuple(names),
            lengths=[len(line) for line in texts[1:]],
        )
        check_same(put_together(draft, texts, "lines"), sample)


def counted(words):
    """A draft of words in their order, with the texts."""
    texts = list(dict.fromkeys(words))
    index = {text: i for i, text in enumerate(texts)}
    pieces = [index[word] for word in words]
    order = np.arange(len(pieces))
    return {"pieces": np.array(pieces), "order": order, "evidence": {}}, texts


@of("cwe")
def test_common_words_are_put_together_as_upstream(task, origin, samples):
    prompt = common_words_prompt()
    whole = around(prompt)
    for sample in samples:
        inner, said, context = found(
            f"^{whole}{re.escape(prompt.answer_prefix)} (.*)\n{whole}$",
            sample["input"],
        )
        words, shown, best = (
            re.split(r" ?\d+\. ", text)[1:] for text in (context, inner, said)
        )
        # How often common and other words occur, in the list and the example.
        assert sorted(collections.Counter(shown).values()) == [3] * 30 + [10] * 10
        assert {collections.Counter(shown)[word] for word in best} == {10}
        often = collections.Counter(words)
        assert {often[word] for word in sample["outputs"]} == {30}
        assert set((often - collections.Counter(sample["outputs"] * 30)).values()) == {
            3
        }
        fields, texts = counted(words)
        draft = Draft(
            id="0",
            prompt=with_worked_example(prompt, prompt, inner, f" {said}\n"),
            answers=tuple(sample["outputs"]),
            fixed=0,
            **fields,
        )
        check_same(put_together(draft, texts, "listed"), sample)


@of("fwe")
def test_frequent_words_are_put_together_as_upstream(task, origin, samples):
    prompt = frequent_words_prompt()
    for sample in samples:
        (context,) = found(f"^{around(prompt)}$", sample["input"])
        words = context.split(" ")
        often = collections.Counter(words).most_common()
        assert often[0][0] == "..."
        assert [word for word, _ in often[1:4]] == sample["outputs"]
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in often[1:])
        # Zipf's law with exponent 2, floored, as by the keys of FrequentWordsTask.
        key = often[0][1]
        law = [key // k**2 for k in range(1, int(key**0.5) + 1)]
        assert [count for _, count in often] == law
        fields, texts = counted(words)
        draft = Draft(
            id="0",
            prompt=prompt,
            answers=tuple(sample["outputs"]),
            fixed=0,
            **fields,
        )
        check_same(put_together(draft, texts, "words"), sample)


@of("qa_1", "qa_2")
def test_questions_on_documents_are_put_together_as_upstream(task, origin, samples):
    for sample in samples:
        documents, question = found(
            r"\n\nThe following are given documents\.\n\n(.*)\n\nAnswer the question .*"
            r"\n\nQuestion: (.*)$",
            sample["input"],
        )
        parts = re.split(r"(?:^|\n\n)Document (\d+):\n", documents)[1:]
        assert parts[::2] == [str(i + 1) for i in range(len(parts) // 2)]
        fields, texts = counted(parts[1::2])
        draft = Draft(
            id="0",
            prompt=reading_prompt(question),
            answers=tuple(dict.fromkeys(sample["outputs"])),
            fixed=0,
            **fields,
        )
        check_same(put_together(draft, texts, "numbered"), sample)


def test_squads_questions_and_documents_are_upstreams(shared_dir):
    lengths = (Length("documents", 20),)
    source = str(shared_dir / "data" / "squad" / "dev-v2.0-half.json")
    made = Ruler(task="qa_1", sources=(source,), lengths=lengths, num_questions=4)
    pool = list(made.pool())
    folder = shared_dir / "data" / "ruler_samples"
    lines = (folder / "qa_1_4096.jsonl").read_text(encoding="utf-8").splitlines()
    for sample, item in zip(map(json.loads, lines), made.questions(lengths[0])):
        _, *documents = re.split(r"\n\nDocument \d+:\n", sample["input"])
        last = documents.pop().rsplit("\n\nAnswer the question", 1)[0]
        assert {*documents, last} <= set(pool)
        # The same question with the same answers; its paragraph is in both.
        assert sample["input"].endswith(item.metadata["query"])
        assert list(item.answers) == list(dict.fromkeys(sample["outputs"]))
        example = item.example(pool.__getitem__)
        ((start, end),) = example.evidence
        assert example.document[start:end] in sample["input"]


@pytest.fixture(scope="module")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


@pytest.mark.parametrize(
    "task", ["niah_single_1", "niah_multikey_3", "vt", "cwe", "fwe"]
)
def test_lengths_are_as_near_as_upstreams(task, shared_dir, qwen2):
    pytest.importorskip("wonderwords")
    length = Length("tokens", 4096)
    made = Ruler(task=task, lengths=(length,), encoder=qwen2, num_questions=12)
    pool = list(made.pool())
    found = []
    for item in made.questions(length):
        example = item.example(pool.__getitem__)
        whole = upstream_input(example) + example.metadata["answer_prefix"]
        found.append(len(qwen2.encode(whole)) + ANSWER_ROOM[task])
    path = shared_dir / "data" / "ruler_samples" / f"{task}_4096.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    upstream = [json.loads(line)["length"] for line in lines]
    # Neither goes over; a text more does not fit, of which the longest has 95 tokens.
    assert max(*found, *upstream) <= 4096
    assert min(found) > 4096 - 95
    assert min(found) >= min(upstream) - 40
