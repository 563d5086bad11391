"""What a run is watched on: made before its first step, and not trained on."""

import dataclasses
import itertools
import types

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.judge import Judge
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import SourceSuite
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.train.config import LoopConfig, SFTConfig
from gru_mem_jax.train.questions import (
    QuestionStage,
    held_out_sets,
    held_out_turns,
)
from gru_mem_jax.train.sft import TurnStream

AGENT = AgentConfig(
    chunk_size=40,
    question_tokens=40,
    memory_tokens=64,
    completion_tokens=160,
    prompt_tokens=400,
    prompt=PromptConfig(style="compact"),
)
PLANNED = types.SimpleNamespace(encoder=ByteEncoder(), agent=AGENT)
JUDGE = Judge(PromptBuilder(PLANNED.encoder, AGENT.prompt), AGENT, scored=False)
TURNS = EvidenceTurns(off_evidence=1000)


def example(name, **fields):
    document = "It rained all day, and all night. Ada came. It rained."
    defaults = {"question": f"Who is {name}?", "answers": ("Ada",)}
    defaults |= {"document": document, "evidence": ((34, 43),)}
    return Example(id=name, **defaults | fields)


def source(names, *more, **fields):
    return ListSource(examples=(*map(example, names), *more), **fields)


def settings(**fields):
    loop = LoopConfig(policy="p", eval_every=1)
    defaults = {"loop": loop, "source": source("abc"), "turns": TURNS}
    return SFTConfig(**defaults | {"held_out": source("xyz")} | fields)


def watched(config):
    return held_out_turns(config, PLANNED, JUDGE)


def test_each_held_out_example_once_and_no_more_turns_than_asked_for():
    # Two chunks of 40 bytes, and the answer.
    turns = watched(settings())
    assert [turn.kind for turn in turns] == ["gated", "gated", "answer"] * 3
    assert len(set(turns)) == 9
    assert watched(settings(held_out_turns=4)) == turns[:4]


def test_nothing_is_made_where_nothing_is_evaluated():
    shared = settings(held_out=source("abc"), loop=LoopConfig(policy="p"))
    assert watched(shared) == ()
    only_asked = settings(held_out=None, suite=SourceSuite(sources={"q": source("x")}))
    assert watched(only_asked) == ()


@pytest.mark.parametrize("field", ["source", "short_source"])
def test_what_is_trained_on_is_refused(field):
    config = settings(**{field: source("dye")})
    with pytest.raises(InputError) as caught:
        watched(config)
    assert str(caught.value).startswith(
        "SFTConfig.held_out (ListSource) is not held out: 1 of its 3 questions are in "
        "the training data too, ListSource, such as 'y' (example 1); train on part"
    )
    suite = SourceSuite(sources={"mine": source("xyz")})
    with pytest.raises(InputError, match="set 'mine' of ListSource is not held out"):
        held_out_sets(dataclasses.replace(config, suite=suite), PLANNED)
    # A question that no watched turn is of may be trained on.
    order = [source("xyz").example(i).id for i in range(3)]
    last = settings(**{field: source(order[2])}, held_out_turns=6)
    assert len(watched(last)) == 6


LONG = example("long", question="why " * 20)
BARE = example("bare", evidence=())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (LONG, "(id 'long') is bad: the question has 81 tokens"),
        (BARE, "is bad: example 'bare': has no evidence to make turns of"),
    ],
)
def test_bad_examples_are_an_error_or_passed_over(bad, says):
    strict = settings(held_out=source("x", bad))
    with pytest.raises(InputError) as caught:
        watched(strict)
    assert "ListSource: the example at position " in str(caught.value)
    assert says in str(caught.value)
    skips = settings(held_out=source("x", bad, on_bad_record="skip"))
    assert watched(skips) == watched(settings(held_out=source("x")))


def test_examples_that_give_no_turn_are_counted_in_training():
    config = settings(source=source("abc", BARE, LONG, on_bad_record="skip"))
    config = dataclasses.replace(config, pool_turns=9, rows=1000)
    notes = []
    stage = QuestionStage(config.source, JUDGE, note=notes.append)
    packing = config.learner.packing(1)
    stream = TurnStream(config, PLANNED.encoder, AGENT, stage, None, packing)
    steps = list(itertools.islice(stream.steps(0, 0, 0), 5))
    # All are on one document, which may take twice a pool's 9 turns: those of 6 good
    # examples, of about two epochs.
    assert [step.taken for step in steps] == [0] * 5
    bad = {i for i in range(100) if config.source.example(i).id in ("bare", "long")}
    for before, step in itertools.pairwise([types.SimpleNamespace(position=0), *steps]):
        assert step.met_bad == len(bad & set(range(before.position, step.position)))
    assert sum(step.met_bad for step in steps) > 8
    assert "example 'bare': has no evidence" in " ".join(notes)


def test_a_source_without_any_turn():
    config = settings(held_out=source((), BARE, on_bad_record="skip"))
    with pytest.raises(InputError) as caught:
        watched(config)
    assert str(caught.value).startswith(
        "ListSource: 1000 examples in a row gave no turn to learn, the last at "
        "position 999: example 'bare': has no evidence to make turns of; mark where"
    )
    assert "\n" not in str(caught.value)
