"""Synthetic long texts in the manner of RULER: needles in filler, with evidence spans.

After Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language
Models?", arXiv 2404.06654, with these differences. A value is three words, not a
number, so that a policy with a small vocabulary can copy it; as RULER's numbers differ,
a wanted value shares no word with another value of its text. The question states how
many codes are wanted, so that a reader knows when to stop. A needle never crosses a
block of `chunk_tokens` words and marks: with a tokenizer of one token per word and
mark, and chunks of that size, every needle is whole; other tokenizers may cut needles.

single_key: one needle; "Which code belongs to K?"
multi_key: one needle, and distractors for other keys; the same question.
multi_value: n needles for one key, distractors;
  "Which first second codes belong to K?"
multi_query: a needle for each of n keys, distractors; "Which codes belong to K L?"
chain: a link from K to L, L's needle (later, if nothing else is set), distractors;
  "Which linked code belongs to K?"

A needle is "The code for K is x y z.", a link "The code for K is that of L.". Each
evidence sentence has a block of its own, unless a chain's gap is 0. Answers are the
values in the order of the question (multi_value: of the text), joined by ", "; scoring
is exact.

A share of the documents varies in typesetting (`surface`): wrapped, with other white
space and case, with bullets, quotes or tags around sentences.
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_choice, check_int, check_number, plain_numbers
from gru_mem_jax.tiny import surface, words
from gru_mem_jax.tiny.surface import Sentence, Surface

Task = Literal["single_key", "multi_key", "multi_value", "multi_query", "chain"]
TASKS: tuple[Task, ...] = (
    "single_key",
    "multi_key",
    "multi_value",
    "multi_query",
    "chain",
)
NEEDLE_TOKENS = 9  # words and marks of a needle, and of a link
_MIN_FILLER = 12  # both kinds of filler can fill any length from here on
_MAX_SENTENCE = 9  # words and marks of the longest
_MOST_CHUNKS = 1 << 20
_TEST_SHARE = 26  # of 256: pairs of the test split


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of `generate`.

    Attributes:
      tasks: the tasks in the mix.
      weights: their weights; empty means equal.
      num_chunks: blocks in a document.
      chunk_tokens: words and marks in a block.
      filler: "noise", RULER's five sentences; "sentences", of a small grammar;
        "mixed", one of the two for each document.
      min_items, max_items: values of multi_value and keys of multi_query.
      placement: evidence anywhere ("uniform"), or in the first fifth of the blocks
        ("first_20"; in more blocks if the evidence needs them).
      gap: the bridge gap of a chain: how many blocks the link, which is needed first,
        lies after the needle that it points to. With 8, the needle is read eight blocks
        before a reader can know that it is wanted; with -8, eight blocks after; with 0
        they share a block. None: anywhere, the needle later.
      reversed_chains: share of the chains without a gap whose needle comes before the
        link. It does not change the others.
      joined_chains: share of the chains without a gap whose link and needle share a
        block, as with a gap of 0. It does not change the others.
      max_distractors: of a block (none in single_key).
      varied: share of the examples whose white space, case and marks vary. It does not
        change the others.
      split: "train" and "test" share no pair of key and value.
      seed: with split and index, determines the example.
    """

    tasks: tuple[str, ...] = TASKS
    weights: tuple[float, ...] = ()
    num_chunks: int = 8
    chunk_tokens: int = 64
    filler: str = "mixed"
    min_items: int = 2
    max_items: int = 4
    placement: str = "uniform"
    gap: int | None = None
    reversed_chains: float = 0.0
    joined_chains: float = 0.0
    max_distractors: int = 2
    varied: float = 0.0
    split: str = "train"
    seed: int = 0

    def __post_init__(self):
        plain_numbers(self)
        if not self.tasks:
            raise InputError("tasks is empty; name at least one of " + ", ".join(TASKS))
        for task in self.tasks:
            check_choice("task", task, TASKS)
        if self.weights and (
            len(self.weights) != len(self.tasks)
            or min(self.weights) < 0
            or sum(self.weights) <= 0
        ):
            raise InputError(
                f"weights must be one number >= 0 for each of the {len(self.tasks)} "
                f"tasks and not all zero, got {self.weights}"
            )
        check_choice("filler", self.filler, ("noise", "sentences", "mixed"))
        check_choice("placement", self.placement, ("uniform", "first_20"))
        check_choice("split", self.split, ("train", "test"))
        if not 1 <= self.min_items <= self.max_items <= len(words.ORDINALS):
            raise InputError(
                "items must hold 1 <= min_items <= max_items <= "
                f"{len(words.ORDINALS)}, got {self.min_items} and {self.max_items}"
            )
        needed = max(_max_evidence(task, self.max_items) for task in self.tasks)
        check_int("num_chunks for these tasks", self.num_chunks, needed)
        check_int("max_distractors", self.max_distractors, 0)
        check_number("varied", self.varied, 0, 1)
        check_number("reversed_chains", self.reversed_chains, 0, 1)
        check_number("joined_chains", self.joined_chains, 0, 1)
        if self.gap is not None:
            self._check_gap()
        joined = self.gap == 0 or ("chain" in self.tasks and self.joined_chains > 0)
        needles = (2 if joined else 1) + self.max_distractors
        least = NEEDLE_TOKENS * needles + _MIN_FILLER
        if self.chunk_tokens < least:
            raise InputError(
                f"chunk_tokens must be at least {least} to hold a needle, "
                f"{self.max_distractors} distractors and filler, got "
                f"{self.chunk_tokens}"
            )

    def _check_gap(self) -> None:
        if self.tasks != ("chain",):
            raise InputError(f"gap is of the task chain alone, got tasks {self.tasks}")
        check_int("gap", self.gap, -_MOST_CHUNKS, _MOST_CHUNKS)
        for name in ("reversed_chains", "joined_chains"):
            if getattr(self, name):
                raise InputError(
                    f"a gap says where a chain's facts lie: {name} must be 0"
                )
        if abs(self.gap or 0) >= (region := self.region(2)):
            raise InputError(
                f"a gap of {self.gap} needs more than {abs(self.gap or 0)} blocks, got "
                f"{region} (num_chunks {self.num_chunks}, placement {self.placement})"
            )

    def region(self, count: int) -> int:
        """The number of first blocks that may hold `count` pieces of evidence."""
        if self.placement == "first_20":
            return max(-(-self.num_chunks // 5), count)
        return self.num_chunks


def _max_evidence(task: str, max_items: int) -> int:
    return {"multi_value": max_items, "multi_query": max_items, "chain": 2}.get(task, 1)


def in_split(key: str, value: str, split: str) -> bool:
    """Whether a hash of the pair assigns it to a split."""
    digest = hashlib.blake2b(f"{key} {value}".encode(), digest_size=1).digest()
    return (digest[0] < _TEST_SHARE) == (split == "test")


def generate(config: SyntheticConfig, index: int) -> Example:
    """Example number `index`: the same for equal arguments, on any machine."""
    rng = random.Random(f"{config.seed}/{config.split}/{index}")
    task = rng.choices(config.tasks, config.weights or None)[0]
    question, answer, pairs, asked = _draw_task(rng, config, task)
    wanted = _Wanted(asked, frozenset(" ".join(v for _, v in pairs).split()))
    blocks = _place(rng, config, len(pairs))
    # A generator of its own, so that other documents do not depend on it.
    turned = random.Random(f"{config.seed}/{config.split}/{index}/order")
    if task == "chain" and turned.random() < config.reversed_chains:
        blocks.reverse()
    if task == "chain" and turned.random() < config.joined_chains:
        blocks = blocks[:1] * 2
    filler = config.filler
    if filler == "mixed":
        filler = rng.choice(("noise", "sentences"))
    evidence_at: dict[int, list[tuple[str, str]]] = {}
    for block, pair in zip(blocks, pairs, strict=True):
        evidence_at.setdefault(block, []).append(pair)
    # A generator of its own, so that plain documents do not depend on it.
    look = random.Random(f"{config.seed}/{config.split}/{index}/surface")
    setting = surface.draw(look) if look.random() < config.varied else surface.PLAIN
    sentences: list[Sentence] = []
    for block in range(config.num_chunks):
        evidence = evidence_at.get(block, ())
        sentences += _block(rng, config, task, filler, evidence, wanted, setting)
    document, spans = surface.lay_out(sentences, setting, look)
    return Example(
        id=f"synthetic/{config.seed}/{config.split}/{index}",
        question=surface.vary_question(question, setting, look),
        answers=(answer,),
        document=document,
        evidence=spans,
        task=task,
        scoring="exact",
        # A link is needed first; what is asked for in one question, together.
        evidence_order=tuple(
            int(task == "chain" and "that of " not in sentence.text)
            for sentence in sentences
            if sentence.is_evidence
        ),
    )


def needle(key: str, value: str, setting: Surface = surface.PLAIN) -> str:
    """The sentence that gives a key's code."""
    key, value = key.join(setting.key_marks), value.join(setting.value_marks)
    return f"The code for {key} is {value}."


class _Wanted(NamedTuple):
    """The keys of a question, and the words of their values; distractors avoid them."""

    keys: frozenset[str]
    words: frozenset[str]


def _draw_task(
    rng: random.Random, config: SyntheticConfig, task: str
) -> tuple[str, str, list[tuple[str, str]], frozenset[str]]:
    """Question, answer, evidence pairs in order of the text, reserved keys."""
    items = rng.randint(config.min_items, config.max_items)
    if task == "multi_query":
        keys = rng.sample(words.KEYS, items)
        values = _draw_values(rng, keys, config.split)
        pairs = list(zip(keys, values))
        rng.shuffle(pairs)
        question = f"Which codes belong to {' '.join(keys)}?"
        return question, ", ".join(values), pairs, frozenset(keys)
    if task == "chain":
        key, target = _draw_link(rng, config.split)
        value = _draw_value(rng, target, config.split)
        pairs = [(key, f"that of {target}"), (target, value)]
        question = f"Which linked code belongs to {key}?"
        return question, value, pairs, frozenset((key, target))
    key = rng.choice(words.KEYS)
    if task == "multi_value":
        values = _draw_values(rng, [key] * items, config.split)
        question = f"Which {' '.join(words.ORDINALS[:items])} codes belong to {key}?"
    else:
        values = [_draw_value(rng, key, config.split)]
        question = f"Which code belongs to {key}?"
    return question, ", ".join(values), [(key, v) for v in values], frozenset((key,))


def _draw_values(rng: random.Random, keys: Sequence[str], split: str) -> list[str]:
    values: list[str] = []
    for key in keys:
        values.append(_draw_value(rng, key, split, taken=" ".join(values).split()))
    return values


def _draw_value(
    rng: random.Random, key: str, split: str, taken: Collection[str] = ()
) -> str:
    free = [word for word in words.VALUES if word not in taken]
    while True:
        value = " ".join(rng.sample(free, 3))
        if in_split(key, value, split):
            return value


def _draw_link(rng: random.Random, split: str) -> tuple[str, str]:
    while True:
        key, target = rng.sample(words.KEYS, 2)
        if in_split(key, f"that of {target}", split):
            return key, target


def _place(rng: random.Random, config: SyntheticConfig, count: int) -> list[int]:
    """Blocks of the evidence, one each, ascending; those of a link and its needle."""
    region = config.region(count)
    if config.gap is None:
        return sorted(rng.sample(range(region), count))
    first = rng.randrange(region - abs(config.gap))
    return [first + max(config.gap, 0), first - min(config.gap, 0)]


def _block(
    rng: random.Random,
    config: SyntheticConfig,
    task: str,
    filler: str,
    evidence: Sequence[tuple[str, str]],
    wanted: _Wanted,
    setting: Surface,
) -> list[Sentence]:
    """Sentences of exactly `chunk_tokens` words and marks."""
    pairs = []
    if task != "single_key":
        for _ in range(rng.randint(0, config.max_distractors)):
            pairs.append(_draw_distractor(rng, config, task, wanted))
    pairs += evidence
    room = config.chunk_tokens - NEEDLE_TOKENS * len(pairs)
    if room - setting.needle_tokens * len(pairs) < _MIN_FILLER:
        setting = setting._replace(key_marks=("", ""), value_marks=("", ""))
    room -= setting.needle_tokens * len(pairs)
    needles = [Sentence(needle(*p, setting), p in evidence) for p in pairs]
    rng.shuffle(needles)
    marked = _marked(setting, room, len(needles))
    room -= marked * setting.mark_tokens
    fill = _noise(rng, room) if filler == "noise" else _sentences(rng, room)
    places = sorted(rng.randint(0, len(fill)) for _ in needles)
    sentences = [Sentence(sentence, False) for sentence in fill]
    for shift, (place, item) in enumerate(zip(places, needles)):
        sentences.insert(place + shift, item)
    if marked:
        for i in rng.sample(range(len(sentences)), marked):
            sentences[i] = sentences[i]._replace(is_marked=True)
    return sentences


def _marked(setting: Surface, room: int, needles: int) -> int:
    """The number of marked sentences in a block, so that filler still fits."""
    marked = setting.most_marked
    while marked:
        left = room - marked * setting.mark_tokens
        if left >= _MIN_FILLER and marked <= needles + left // _MAX_SENTENCE:
            break
        marked -= 1
    return marked


def _draw_distractor(
    rng: random.Random, config: SyntheticConfig, task: str, wanted: _Wanted
) -> tuple[str, str]:
    while True:
        if task == "chain" and rng.random() < 0.5:
            key, target = _draw_link(rng, config.split)
            value = f"that of {target}"
            if target in wanted.keys:
                continue
        else:
            key = rng.choice(words.KEYS)
            value = _draw_value(rng, key, config.split, wanted.words)
        if key not in wanted.keys:
            return key, value


def _noise(rng: random.Random, room: int) -> list[str]:
    """RULER's noise in order, from a random start: 4 or 5 words and marks each."""
    short = -room % 5
    long = itertools.cycle(words.NOISE[:-1])
    for _ in range(rng.randrange(4)):
        next(long)
    fill = [next(long) for _ in range((room - 4 * short) // 5)]
    for _ in range(short):
        fill.insert(rng.randint(0, len(fill)), words.NOISE[-1])
    return fill


def _sentences(rng: random.Random, room: int) -> list[str]:
    """Sentences of 4 to 8 words and a full stop, filling `room` exactly."""
    fill = []
    while room:
        lengths = [n for n in range(5, 10) if room == n or room - n >= 5]
        length = lengths[int(rng.random() * len(lengths))]
        fill.append(_sentence(rng, length - 1))
        room -= length
    return fill


_VERB_PHRASE = (words.VERBS, words.PREPOSITIONS, words.DETERMINERS)
_GRAMMAR = {
    4: (words.NOUNS, words.VERBS, words.ADVERBS),
    5: (words.ADJECTIVES, words.NOUNS, words.VERBS, words.ADVERBS),
    6: (words.NOUNS, *_VERB_PHRASE, words.NOUNS),
    7: (words.ADJECTIVES, words.NOUNS, *_VERB_PHRASE, words.NOUNS),
    8: (words.ADJECTIVES, words.NOUNS, *_VERB_PHRASE, words.ADJECTIVES, words.NOUNS),
}


def _sentence(rng: random.Random, length: int) -> str:
    draw = rng.random
    rest = [pool[int(draw() * len(pool))] for pool in _GRAMMAR[length]]
    start = words.DETERMINERS[int(draw() * len(words.DETERMINERS))]
    return f"{start.capitalize()} {' '.join(rest)}."
