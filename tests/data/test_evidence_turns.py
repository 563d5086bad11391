"""Oracle turns of hand-made examples: what is taught, and that the loop closes."""

import dataclasses
import random

import pytest
from turn_replay import ADA, CASES, agent, check, example, replay

from gru_mem_jax.agent.config import PAPER_MODES as MODES
from gru_mem_jax.agent.parse import TAGS, parse_memory_turn
from gru_mem_jax.agent.prompts import ORDERS, STYLES
from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.sentences import one_line
from gru_mem_jax.data.turn_wording import Reading, TurnWording, full_wording
from gru_mem_jax.data.turns import break_tags
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.testing.byte_tokenizer import END, ByteEncoder

ENCODER = ByteEncoder()
ALL = EvidenceTurns(off_evidence=1000, memagent_off_evidence=1000)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("style", STYLES)
def test_the_loop_closes(name, mode, order, style):
    item, size, lines = CASES[name]
    config = agent(mode=mode, order=order, style=style, chunk_size=size)
    trajectory = replay(ALL.oracle(ENCODER, config), ENCODER, config, item)
    check(trajectory, item, ENCODER, config)
    between = "\n" if style == "full" else " "
    assert trajectory.memory_turns[-1].memory == between.join(lines)
    if style == "full":  # only what has been read is written
        for turn in trajectory.memory_turns:
            read = break_tags(one_line(item.document[: turn.chunk_span[1]]))
            if turn.memory != "No previous memory":
                assert all(line in read for line in turn.memory.split("\n"))


@pytest.mark.parametrize("format_tags", [True, False])
@pytest.mark.parametrize("opens", ["<think>", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize("mode", MODES)
def test_the_loop_closes_where_a_template_opens_the_reply(mode, opens, format_tags):
    class Thinking(ByteEncoder):
        def render_chat(self, messages, variables=None):
            return super().render_chat(messages) + opens

    encoder = Thinking(format_tags=format_tags)
    for style in STYLES:
        item, size, _ = CASES["first_and_last"]
        config = agent(mode=mode, style=style, chunk_size=size)
        trajectory = replay(ALL.oracle(encoder, config), encoder, config, item)
        check(trajectory, item, encoder, config)
        assert all(turn.text.startswith(opens) for turn in trajectory.turns)


def said(config, item, rng=0, **fields):
    oracle = EvidenceTurns(**fields).oracle(ENCODER, config)
    turns = oracle.turns(item, random.Random(rng))
    return [(turn, ENCODER.decode(turn.completion[:-1])) for turn in turns]


def test_replies_spelled_out():
    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    config = agent(chunk_size=30, style="compact")
    texts = [text for _, text in said(config, item, off_evidence=1000)]
    assert texts == [
        f"<think> {ADA}</think><check>yes</check><update> {ADA}</update>"
        "<next>continue</next>",
        "<think></think><check>no</check><update></update><next>continue</next>",
        "<think> She died there.</think><check>yes</check>"
        f"<update> {ADA} She died there.</update><next>end</next>",
        "\\boxed{ Paris}",
    ]
    config = agent(chunk_size=30)
    texts = [text for _, text in said(config, item, off_evidence=1000)]
    assert texts == [
        f'<think>The section says: "{ADA}" More is needed.</think>\n'
        f"<check>yes</check>\n<update>{ADA}</update>\n<next>continue</next>",
        "<think>The section holds nothing new that helps to answer the problem. More "
        "is needed.</think>\n<check>no</check>\n<update></update>\n"
        "<next>continue</next>",
        '<think>The section says: "She died there." Nothing is missing.</think>\n'
        f"<check>yes</check>\n<update>{ADA}\nShe died there.</update>\n"
        "<next>end</next>",
        "\\boxed{Paris}",
    ]
    config = agent(chunk_size=30, mode="memagent")
    texts = [text for _, text in said(config, item, memagent_off_evidence=1000)]
    assert texts == [ADA, ADA, f"{ADA}\nShe died there.", "\\boxed{Paris}"]


def test_memagent_without_evidence_yet_writes_what_it_was_shown():
    item = example(f"{'It rains. ' * 8}{ADA}", "Paris")
    for style, nothing in (("full", "No previous memory"), ("compact", " none")):
        config = agent(mode="memagent", style=style)
        texts = [text for _, text in said(config, item, memagent_off_evidence=1000)]
        assert texts[:2] == [nothing, nothing]


def test_what_a_border_cuts_off_is_lost():
    """Chunks "Well. Ada was bo" and "rn in Paris. It ": the second alone counts."""
    item = example(f"Well. {ADA} It rains.", ADA)
    turns = said(agent(chunk_size=16), item, off_evidence=0)
    ((turn, text),) = turns  # no answer turn: who was born is not in the memory
    assert (turn.kind, turn.evidence) == ("gated", True)
    assert parse_memory_turn(text).memory == "rn in Paris."
    assert parse_memory_turn(text).exit


# Three pieces of 22, 104 and 15 bytes, one in each chunk of 120.
LONG = "Long " * 20 + "too."
MANY = example(
    f"{ADA} It rains.".ljust(120) + f"{LONG} It is.".ljust(120) + "She died there.",
    *("Paris", "too.", "died"),
)


def test_what_does_not_fit_is_left_out():
    for memory_tokens, evidence in ((130, [True, True]), (60, [True, True])):
        config = agent(chunk_size=120, memory_tokens=memory_tokens)
        turns = said(config, MANY, off_evidence=0)
        assert [turn.evidence for turn, _ in turns] == evidence
        assert parse_memory_turn(turns[0][1]).memory == ADA
        second = parse_memory_turn(turns[1][1])
        added = LONG if memory_tokens == 130 else "She died there."
        assert second.memory == f"{ADA}\n{added}"
        assert second.exit == (memory_tokens == 60)
    # With a larger budget all are taught.
    kinds = [t.kind for t, _ in said(agent(chunk_size=120), MANY, off_evidence=0)]
    assert kinds == ["gated", "gated", "gated", "answer"]


def test_the_oldest_that_fit_are_kept_within_a_chunk():
    config = agent(chunk_size=400, memory_tokens=60)
    ((turn, text),) = said(config, MANY, off_evidence=0)
    assert parse_memory_turn(text).memory == f"{ADA}\nShe died there."
    # The whole reply counts too: thought and memory of 1 + 38 bytes each, 8 tags,
    # "yes", "end" and the stop id.
    for completion_tokens, memory in ((92, ADA), (93, f"{ADA} She died there.")):
        config = agent(
            chunk_size=400,
            style="compact",
            memory_tokens=60,
            completion_tokens=completion_tokens,
        )
        ((turn, text),) = said(config, MANY, off_evidence=0)
        assert parse_memory_turn(text).memory == memory
        assert len(turn.completion) <= completion_tokens


def test_shares_are_those_of_the_settings():
    document = f"{'It rains. ' * 20}{ADA}{' It rains.' * 20}"
    item = example(document, "Paris")
    for fields, counts in (
        ({}, (2, 0, 1)),
        ({"off_evidence": 3.0}, (4, 0, 1)),
        ({"off_evidence": 0.0}, (1, 0, 1)),
        ({"kinds": ("answer",)}, (0, 0, 1)),
        ({"kinds": ("gated",)}, (2, 0, 0)),
        ({"kinds": ("memagent", "gated"), "memagent_off_evidence": 2.0}, (2, 3, 0)),
    ):
        turns = [turn for turn, _ in said(agent(), item, **fields)]
        kinds = [turn.kind for turn in turns]
        assert tuple(map(kinds.count, ("gated", "memagent", "answer"))) == counts
    draws = [said(agent(), item, rng, off_evidence=4) for rng in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_after_the_last_evidence_it_is_time_to_end():
    item = example(f"{ADA}{' It rains.' * 9}", "Paris")
    gates = [parse_memory_turn(t) for _, t in said(agent(), item, off_evidence=9)[:-1]]
    assert [(gate.update, gate.exit) for gate in gates] == [
        (True, True),
        (False, True),
        (False, True),
    ]


def test_chunks_behind_max_chunks_are_not_taught():
    item = example(f"{ADA} {'It rains. ' * 9}She died there.", "Paris", "died")
    turns = said(agent(max_chunks=2), item, off_evidence=9)
    assert [turn.kind for turn, _ in turns] == ["gated", "gated"]
    # The label of the exit gate is that of the whole document.
    assert not any(parse_memory_turn(text).exit for _, text in turns)
    behind = example(f"{'It rains. ' * 9}She died there.", "died")
    with pytest.raises(InputError, match="lies after the first 2 chunks"):
        said(agent(max_chunks=2), behind)


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"evidence": ()}, {}, "example 'e1': has no evidence to make turns of; mark"),
        ({}, {"memory_tokens": 15}, "no piece of its evidence fits memory_tokens 15 "),
        ({}, {"completion_tokens": 60}, "shortest has 22 tokens, and a gated reply"),
        ({"evidence": ((3, 4),)}, {}, "its evidence is white space"),
        ({"question": "Where? " * 20}, {}, "the question has 140 tokens, more than"),
        ({"answers": ("x" * 800,)}, {}, "its answer takes 809 tokens, more than comp"),
        ({"answers": (" ",)}, {}, "matches answers .*' '"),
        ({"document": f"\ud800 {ADA}"}, {}, "lone surrogate"),
    ],
)
def test_what_no_turns_can_be_made_of(changes, config, message):
    item = dataclasses.replace(example(ADA, "Paris"), **changes)
    with pytest.raises(InputError, match=message) as error:
        said(agent(**config), item)
    assert str(error.value).startswith("example 'e1': ")


def test_budgets_are_judged_at_once():
    with pytest.raises(InputError, match="prompt_tokens is 600"):
        EvidenceTurns().oracle(ENCODER, agent(prompt_tokens=600))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ()}, "kinds must name some of"),
        ({"kinds": ("gate",)}, "kinds must name some of"),
        ({"off_evidence": -1}, "off_evidence must be a number from 0 to 1000"),
        ({"memagent_off_evidence": "1"}, "memagent_off_evidence must be a number"),
        ({"after_evidence": -0.5}, "after_evidence must be a number from 0 to 1"),
        ({"after_evidence": float("nan")}, "after_evidence must be a number from 0"),
        ({"hard_negatives": 1.5}, "hard_negatives must be a number from 0 to 1"),
        ({"wording": "full"}, "wording must be a function of a Reading, got 'full'"),
        ({"wording": lambda: None}, "wording must be a function of a Reading"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        EvidenceTurns(**fields)


def test_a_wording_of_ones_own():
    seen = []

    def notes(reading):
        seen.append(reading)
        lines = [f"- {sentence.strip()}" for sentence in reading.sentences]
        return TurnWording("<think>Hm.</think>", "\n".join([reading.memory, *lines]))

    item = example(f"{ADA} {'It rains. ' * 4}She died there.", "Paris", "died")
    config = agent(chunk_size=30)
    texts = [t for _, t in said(config, item, off_evidence=9, wording=notes)[:-1]]
    outputs = [parse_memory_turn(text) for text in texts]
    assert {output.think for output in outputs} == {"< think>Hm.< /think>"}
    assert [output.memory for output in outputs] == [
        f"- {ADA}",
        "",
        f"- {ADA}\n- She died there.",
    ]
    assert seen == [
        Reading(
            question=item.question,
            section=item.document[start : start + 30],
            memory=memory,
            sentences=sentences,
            continues=False,
            is_last=is_last,
        )
        for start, memory, sentences, is_last in (
            (0, "", (ADA,), False),
            (0, "", (), False),  # what would be said if it were not there
            (30, f"- {ADA}", (), False),
            (60, f"- {ADA}", ("She died there.",), True),
            (60, f"- {ADA}", (), False),
        )
    ]


def test_a_wording_is_told_of_a_cut_sentence():
    seen = []

    def listening(reading):
        seen.append((reading.sentences, reading.continues))
        return full_wording(reading)

    for size in (14, 16):
        said(agent(chunk_size=size), CASES["across_a_border"][0], wording=listening)
    by_evidence = [sentences for sentences in seen if sentences[0]]
    assert by_evidence == [
        (("Ada was born i",), False),
        (("n Paris.",), True),
        (("Ada was born in",), False),
        ((" Paris.",), True),
    ]


@pytest.mark.parametrize("gives", [None, "text", ("a",), ("a", None), ["a", "b"]])
def test_a_wording_gives_two_texts(gives):
    def wrong(reading):
        return gives

    with pytest.raises(RunError, match="wording wrong must return a TurnWording"):
        said(agent(), example(ADA, "Paris"), wording=wrong)


def test_gin_binds_the_wording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_words_of_turns.py").write_text(
        "from gru_mem_jax.data.turn_wording import TurnWording\n\n"
        "def briefly(reading):\n"
        '    return TurnWording("Well.", reading.memory + reading.section)\n'
    )
    (tmp_path / "words.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import own_words_of_turns\n"
        "from gru_mem_jax.data import evidence_turns\n"
        "evidence_turns.EvidenceTurns.wording = @own_words_of_turns.briefly\n"
        "evidence_turns.EvidenceTurns.kinds = ('gated',)\n"
    )
    maker = GinConfig((), ["words.gin"]).build(EvidenceTurns())
    oracle = maker.oracle(ENCODER, agent())
    (turn,) = oracle.turns(example(ADA, "Paris"), random.Random(0))
    output = parse_memory_turn(ENCODER.decode(turn.completion[:-1]))
    assert (output.think, output.memory) == ("Well.", ADA)


def random_example(rng):
    """Words, stops, tags and line ends in any order, with evidence anywhere."""
    words = ["Ada", "went", "on", "3", "Köln", "東京。", *TAGS, END, "\\boxed{a}", "{"]
    ends = [" ", " ", " ", ". ", "! ", "\n", "\r\n\r\n", "", "\ufffd"]
    text = "".join(rng.choice(words) + rng.choice(ends) for _ in range(80))
    spans = []
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) - 1)
        spans.append((start, min(len(text), start + rng.randint(1, 60))))
    return Example(
        id="r",
        question="What?",
        answers=("Köln", "東京"),
        document=text,
        evidence=tuple(sorted(spans)),
    )


def test_any_example_closes_the_loop_or_has_no_answer_turn():
    rng = random.Random(3)
    closed = 0
    for number in range(300):
        item = random_example(rng)
        config = agent(
            mode=rng.choice(MODES),
            order=rng.choice(ORDERS),
            style=rng.choice(STYLES),
            chunk_size=rng.randint(30, 300),
            memory_tokens=900,
            completion_tokens=2500,
        )
        encoder = ByteEncoder(format_tags=number % 2 == 0)
        evidence, _ = labels(item, encoder, config.chunk_size)
        oracle = ALL.oracle(encoder, config)
        turns = oracle.turns(item, random.Random(0))
        memory_turns = sum(turn.kind != "answer" for turn in turns)
        # A chunk whose evidence is white space has no turn.
        if turns[-1].kind == "answer" and memory_turns == len(evidence):
            check(replay(oracle, encoder, config, item), item, encoder, config)
            closed += 1
    assert closed > 100
