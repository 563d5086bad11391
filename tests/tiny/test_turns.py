"""From examples to turns: prompts as the loop makes them, labels as the oracle's."""

import itertools
import json
import random

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import Completion, prompt_ids
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.scoring import score
from gru_mem_jax.errors import InputError
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tiny.synthetic import TASKS, SyntheticConfig, generate
from gru_mem_jax.tiny.turns import TurnConfig
from gru_mem_jax.tokenization import TextTokenizer

AGENT = AgentConfig(chunk_size=64, prompt=PromptConfig(style="compact"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer.save(path)
    return TextTokenizer.from_pretrained(path)


def completion(ids):
    return Completion(
        ids=ids,
        logprobs=(0.0,) * len(ids),
        sampling_logprobs=(0.0,) * len(ids),
        finish_reason="stop",
    )


@pytest.mark.parametrize("order", ["memory_first", "chunk_first"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", ["without_exit_gate", "memagent"])
def test_the_loop_asks_what_is_taught_and_the_oracle_answers(
    encoder, task, mode, order
):
    """A policy that has learnt every turn answers right: the loop closes."""
    example = generate(SyntheticConfig(tasks=(task,), split="test"), 11)
    prompt = PromptConfig(style="compact", order=order)
    kind = "memagent" if mode == "memagent" else "gated"
    config = TurnConfig(
        kinds=(kind, "answer"),
        off_evidence=100,
        memagent_off_evidence=100,
        blank_memory=0.0,
    )
    agent = AgentConfig(mode=mode, chunk_size=64, prompt=prompt)
    rows = config.oracle(encoder, agent).turns(example, random.Random(0))
    taught = {row.prompt: row.completion for row in rows}
    loop = Recurrence(
        PromptBuilder(encoder, prompt),
        agent,
        example.question,
        example.document,
    )
    while (request := loop.next_request()) is not None:
        loop.receive(completion(taught[prompt_ids(request.prompt)]))
    assert loop.trajectory.answer == example.answers[0]
    assert len(loop.trajectory.turns) == 9
    assert len(rows) == 9


def chain(gap, index):
    return generate(SyntheticConfig(tasks=("chain",), gap=gap, split="test"), index)


@pytest.mark.parametrize("gap", [0, -1, -5])
def test_a_chain_is_taught_at_every_gap_that_a_reading_can_bridge(encoder, gap):
    """At gap 0 in either order: both are read in one turn."""
    agent = AgentConfig(mode="with_exit_gate", chunk_size=64, prompt=AGENT.prompt)
    oracle = TurnConfig(off_evidence=100, blank_memory=0.0).oracle(encoder, agent)
    orders = set()
    for index in range(6):
        example = chain(gap, index)
        orders.add(example.evidence_order)
        oracle.check(example)
        rows = oracle.turns(example, random.Random(0))
        taught = {row.prompt: row.completion for row in rows}
        builder = PromptBuilder(encoder, agent.prompt)
        loop = Recurrence(builder, agent, example.question, example.document)
        while (request := loop.next_request()) is not None:
            loop.receive(completion(taught[prompt_ids(request.prompt)]))
        assert loop.trajectory.answer == example.answers[0]
    assert orders == ({(0, 1), (1, 0)} if gap == 0 else {(0, 1)})


def test_a_second_hop_before_the_first_is_no_turn_to_teach(encoder):
    oracle = TurnConfig().oracle(encoder, AGENT)
    with pytest.raises(InputError, match="second hop is read before the first"):
        oracle.check(chain(1, 0))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", ["with_exit_gate", "memagent"])
def test_needles_are_evidence_like_any_other(encoder, task, mode):
    """What `data.evidence_turns` makes of the synthetic examples closes the loop too.

    Evidence stands in capitals and with marks, which the word tokenizer reads alike.
    """
    data = SyntheticConfig(tasks=(task,), varied=1.0)
    agent = AgentConfig(
        mode=mode,
        chunk_size=64,
        prompt=PromptConfig(style="compact", order="chunk_first"),
    )
    oracle = EvidenceTurns(off_evidence=100, memagent_off_evidence=100).oracle(
        encoder, agent
    )
    builder = PromptBuilder(encoder, agent.prompt)
    for index in range(5):
        example = generate(data, index)
        rows = oracle.turns(example, random.Random(0))
        taught = {row.prompt: row.completion for row in rows}
        loop = Recurrence(builder, agent, example.question, example.document)
        while (request := loop.next_request()) is not None:
            loop.receive(completion(taught[prompt_ids(request.prompt)]))
        trajectory = loop.trajectory
        assert trajectory.well_formed
        assert score(trajectory.answer, example.answers, example.scoring) == 1.0
        if mode == "with_exit_gate":
            evidence, last = labels(example, encoder, 64)
            updates = tuple(turn.update for turn in trajectory.memory_turns)
            assert updates == evidence[: last + 1]


@pytest.fixture(scope="module")
def thinking_dir(tmp_path_factory):
    """The word tokenizer, its template opening what a variable says."""
    path = tmp_path_factory.mktemp("thinking")
    word_tokenizer.save(path)
    file = path / "tokenizer_config.json"
    record = json.loads(file.read_text())
    record["chat_template"] = record["chat_template"].replace(
        "assistant\n", "assistant\n{{ opens }}"
    )
    file.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("opens", ["<think>", "<think>\n", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize("mode", ["without_exit_gate", "memagent"])
def test_what_a_template_has_opened_is_not_taught_again(thinking_dir, mode, opens):
    encoder = TextTokenizer.from_pretrained(thinking_dir)
    example = generate(SyntheticConfig(tasks=("multi_key",), split="test"), 11)
    prompt = PromptConfig(style="compact", template_variables={"opens": opens})
    config = TurnConfig(
        kinds=("memagent" if mode == "memagent" else "gated", "answer"),
        off_evidence=100,
        memagent_off_evidence=100,
        blank_memory=0.0,
    )
    agent = AgentConfig(mode=mode, chunk_size=64, prompt=prompt)
    rows = config.oracle(encoder, agent).turns(example, random.Random(0))
    taught = {row.prompt: row.completion for row in rows}
    assert all("<think>" not in encoder.decode(row.completion) for row in rows)
    assert all(encoder.decode(row.prompt).endswith(opens) for row in rows)
    loop = Recurrence(
        PromptBuilder(encoder, prompt),
        agent,
        example.question,
        example.document,
    )
    while (request := loop.next_request()) is not None:
        loop.receive(completion(taught[prompt_ids(request.prompt)]))
    assert loop.trajectory.well_formed
    assert loop.trajectory.answer == example.answers[0]
    assert all(turn.text.startswith(opens) for turn in loop.trajectory.turns)


def test_evidence_is_where_the_needles_end(encoder):
    example = generate(SyntheticConfig(tasks=("multi_value",)), 3)
    config = TurnConfig(kinds=("gated",), off_evidence=100)
    rows = config.oracle(encoder, AGENT).turns(example, random.Random(0))
    blocks = [
        len(encoder.encode(example.document[:start])) // 64
        for start, _ in example.evidence
    ]
    assert [i for i, row in enumerate(rows) if row.evidence] == blocks


def test_turns_off_evidence_are_as_many_as_asked(encoder):
    turns = TurnConfig(kinds=("gated",), off_evidence=2.0).oracle(encoder, AGENT)
    data = SyntheticConfig(tasks=("single_key",))
    rows = turns.turns(generate(data, 0), random.Random(0))
    assert sorted(row.evidence for row in rows) == [False, False, True]


def texts(encoder, config, count=600):
    turns, rng = config.oracle(encoder, AGENT), random.Random(0)
    examples = (generate(SyntheticConfig(), i) for i in itertools.count())
    made = (row for example in examples for row in turns.turns(example, rng))
    rows = itertools.islice(made, count)
    return [(row, encoder.decode(row.completion)) for row in rows]


def test_wrong_gates_are_as_frequent_as_asked(encoder):
    config = TurnConfig(kinds=("gated",), wrong_updates=0.5, wrong_ends=0.5)
    right = texts(encoder, TurnConfig(kinds=("gated",)))
    wrong = texts(encoder, config)
    off = [text for row, text in wrong if not row.evidence]
    share = sum("<check>yes" in text for text in off) / len(off)
    assert 0.4 < share < 0.6
    assert all("<check>yes" in text for row, text in wrong if row.evidence)
    ends = sum("<next>end" in text for _, text in wrong)
    due = sum("<next>end" in text for _, text in right)
    assert 0.35 < ends / due < 0.65
    # Right thoughts: nothing is quoted off evidence.
    assert not any(" is " in text for text in off)


def test_wrong_thoughts_agree_with_wrong_gates(encoder):
    config = TurnConfig(
        kinds=("gated",), wrong_updates=0.5, wrong_ends=0.5, wrong_thoughts=1.0
    )
    for row, text in texts(encoder, config):
        thought, rest = text.split("</think>")
        if not row.evidence:
            says_find = " is " in thought
            assert says_find == ("<check>yes" in rest)
            # What the memory says is not touched by what the thought claims.
            memory = rest.split("<update>")[1].split("</update>")[0]
            claimed = thought.split(" is ")[-1] if says_find else None
            assert claimed is None or claimed not in memory


def test_turns_are_a_function_of_example_and_generator(encoder):
    config = TurnConfig(wrong_updates=0.3)
    assert texts(encoder, config, 50) == texts(encoder, config, 50)


def test_answers_of_some_examples_are_taught_alone(encoder):
    """An example has one answer turn, and many others."""
    turns = TurnConfig(answers_alone=0.6).oracle(encoder, AGENT)
    data, rng = SyntheticConfig(tasks=("single_key",)), random.Random(0)
    alone = 0
    for i in range(200):
        example = generate(data, i)
        rows = turns.turns(example, rng)
        assert rows[-1] == turns.answer(example)
        alone += len(rows) == 1
        # One turn with evidence and one without, of two kinds.
        assert len(rows) in (1, 5)
    assert 100 < alone < 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ()}, "kinds must name"),
        ({"kinds": ("rewrite",)}, "kinds must name"),
        ({"off_evidence": -1.0}, "got -1.0"),
        ({"answers_alone": -1}, "got -1"),
        ({"shifted": 2.0}, "shifted must be a number from 0 to 1, got 2.0"),
        ({"wrong_updates": 1.5}, "wrong_updates must be a number from 0 to 1, got 1.5"),
        (
            {"wrong_thoughts": -0.1},
            "wrong_thoughts must be a number from 0 to 1, got -0.1",
        ),
        (
            {"wrong_ends": float("nan")},
            "wrong_ends must be a number from 0 to 1, got nan",
        ),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        TurnConfig(**arguments)


@pytest.mark.parametrize(
    ("first_chunk", "facts"),
    [
        ("The code for", [(), (("oak", "gold wool zinc"),)]),
        ("The code for oak", []),
        ("The code for oak is gold wool", []),
        ("The code for oak is gold wool zinc", [(("oak", "gold wool zinc"),), ()]),
    ],
)
def test_a_needle_is_read_where_key_and_value_stand_together(first_chunk, facts):
    from gru_mem_jax.tiny.turns import _facts_by_chunk

    document = "The code for oak is gold wool zinc. Here we go."
    example = Example(
        id="x", question="?", answers=("",), document=document, evidence=((0, 35),)
    )
    ends = [len(first_chunk), len(document)]
    assert _facts_by_chunk(example, ends) == facts


def test_shifted_examples_have_chunks_that_begin_anywhere(encoder):
    config = TurnConfig(
        kinds=("gated",), off_evidence=100, blank_memory=0.0, shifted=1.0
    )
    turns = config.oracle(encoder, AGENT)
    rng = random.Random(0)
    starts, counts, quoted = set(), set(), 0
    for index in range(80):
        data = SyntheticConfig(varied=0.5)
        rows = turns.turns(generate(data, index), rng)
        counts.add(len(rows))
        for row in rows:
            section = encoder.decode(row.prompt).split("<section>")[1]
            starts.add(section.split("</section>")[0].strip()[:1].isupper())
            thought = encoder.decode(row.completion).split("</think>")[0]
            if row.evidence:
                # What is to be quoted stands in the chunk, whole.
                first, _, last = thought.split(" is ")[-1].lower().split()
                flat = section.lower()
                assert 0 <= flat.find(first) < flat.rfind(last)
                quoted += 1
    assert starts == {True, False}
    assert quoted > 100
    assert max(counts) == 8
    assert min(counts) < 8  # where a border cut a needle


def test_an_example_without_shift_is_taught_in_whole(encoder):
    config = TurnConfig(kinds=("gated",), off_evidence=100)
    turns = config.oracle(encoder, AGENT)
    for index in range(40):
        example = generate(SyntheticConfig(varied=1.0), index)
        rows = turns.turns(example, random.Random(0))
        assert len(rows) == 8
        assert sum(row.evidence for row in rows) == len(example.evidence)
