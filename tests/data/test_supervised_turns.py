"""What all oracles share: replies as token ids, and which chunks are taken."""

import random

import pytest

from gru_mem_jax.agent.parse import TAGS, parse_memory_turn
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.turns import (
    SupervisedTurn,
    break_tags,
    check_kinds,
    chosen_chunks,
    completion_ids,
    supervised_turn,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import END, ByteEncoder

REPLY = "<think>{0}</think><check>yes</check><update>{0}</update><next>end</next>"


def test_a_turn_is_the_prompts_ids_and_the_replys():
    encoder = ByteEncoder()
    builder = PromptBuilder(encoder)
    example = Example(
        id="a", question="?", answers=("b",), document="text", task="some_task"
    )
    prompt = builder.gated((1, 2), (), (3,))
    turn = supervised_turn(builder, "gated", example, True, prompt, "<think>ab</think>")
    think, closing = (encoder.encode_control(tag)[0] for tag in TAGS[:2])
    assert turn == SupervisedTurn(
        kind="gated",
        task="some_task",
        evidence=True,
        prompt=tuple(i for segment in prompt for i in segment.ids),
        completion=(think, 97, 98, closing, *encoder.stop_ids),
    )
    assert len(turn) == len(turn.prompt) + 5


@pytest.mark.parametrize("format_tags", [True, False])
def test_a_quoted_control_token_is_text(format_tags):
    encoder = ByteEncoder(format_tags=format_tags)
    builder = PromptBuilder(encoder)
    reply = REPLY.format(f"say {END} or <|im_start|>")
    ids = completion_ids(builder, reply)
    assert encoder.decode(ids[:-1]) == reply
    steering = encoder.control_ids - encoder.format_ids
    assert steering.isdisjoint(ids[:-1])
    assert sum(i in encoder.format_ids for i in ids) == (8 if format_tags else 0)
    # Without one, the reply is encoded as a whole.
    plain = REPLY.format("it")
    assert completion_ids(builder, plain)[:-1] == tuple(encoder.encode_control(plain))


def test_broken_tags_are_none():
    text = "".join(TAGS) + "<<update>update> <think <check>"
    broken = break_tags(text)
    assert parse_memory_turn(REPLY.format(broken)).memory == broken
    assert break_tags("<b>a < b</b>") == "<b>a < b</b>"
    assert break_tags("x</next>y") == "x< /next>y"


def test_chunks_with_evidence_are_all_taken_and_some_others():
    evidence = [False, True, False, False, False, True, False, False]
    rng = random.Random(0)
    assert chosen_chunks(evidence, 0.0, rng) == {1, 5}
    assert len(chosen_chunks(evidence, 1.0, rng)) == 4
    assert chosen_chunks(evidence, 9.0, rng) == set(range(8))
    assert len(chosen_chunks([False] * 8, 3.0, rng)) == 3
    draws = [chosen_chunks(evidence, 1.0, random.Random(i)) for i in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("kinds", [(), ("rewrite",), "gated", None, (3,)])
def test_kinds_are_those_of_prompts(kinds):
    check_kinds(("gated", "answer"))
    with pytest.raises(InputError, match="kinds must name some of gated"):
        check_kinds(kinds)
