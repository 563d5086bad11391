"""Fault P8 and the fuzz: no completion, however broken, is ever an exception."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.parse import (
    TAGS,
    extract_boxed,
    last_box,
    parse_memory_turn,
)
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.tex import plain_text
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator

BYTES = ByteEncoder()
BUILDERS = {
    style: PromptBuilder(BYTES, PromptConfig(style=style))
    for style in ("full", "compact")
}
GOOD = "<think>t</think><check>yes</check><update>m</update><next>end</next>"

# Text that is nearly a reply: tags, values, boxes, noise, in any order and number.
PIECES = st.one_of(
    st.sampled_from([*TAGS, "yes", "no", "continue", "end", " ", "\n", GOOD]),
    st.sampled_from([r"\boxed{", "{", "}", "<|im_end|>", "<think", "<", "\x00"]),
    st.sampled_from([r"\text{", r"\fbox {", r"\%", "$", "~", "\\"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
NEARLY = st.lists(PIECES, max_size=24).map("".join)
# And ids: bytes that make no text, control tokens, ids without a string.
IDS = st.lists(st.integers(-2, BYTES.vocab_size + 10), max_size=60)
REASONS = st.sampled_from(["stop", "length"])


def completion(ids, reason, stop):
    ids = (*ids, *(BYTES.stop_ids if stop else ()))
    zeros = (0.0,) * len(ids)
    return Completion(
        ids=ids, logprobs=zeros, sampling_logprobs=zeros, finish_reason=reason
    )


COMPLETIONS = st.builds(
    completion,
    st.one_of(IDS, NEARLY.map(BYTES.encode), NEARLY.map(BYTES.encode_control)),
    REASONS,
    st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(NEARLY)
def test_the_parser_always_gives_a_turn(text):
    output = parse_memory_turn(text)
    assert output.well_formed is (output.problem is None)
    if not output.well_formed:
        assert (output.update, output.exit, output.memory) == (False, False, "")
    box = last_box(text)
    assert box is None or box in text
    assert extract_boxed(text) == (None if box is None else plain_text(box))


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20),
    st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20),
    st.sampled_from(["", " ", "\n\n", "\t"]),
    st.sampled_from(["yes", "no"]),
    st.sampled_from(["continue", "end"]),
)
def test_what_follows_the_grammar_is_read_back(think, update, gap, check, exit_):
    text = (
        f"{gap}<think>{think}</think>{gap}<check>{check}</check>{gap}"
        f"<update>{update}</update>{gap}<next>{exit_}</next>{gap}"
    )
    output = parse_memory_turn(text)
    assert output.well_formed
    assert (output.think, output.memory) == (think.strip(), update.strip())
    assert (output.update, output.exit) == (check == "yes", exit_ == "end")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(COMPLETIONS, min_size=12, max_size=12),
    st.sampled_from(["with_exit_gate", "without_exit_gate", "memagent"]),
    st.sampled_from(sorted(BUILDERS)),
    st.text(st.characters(codec="utf-8"), max_size=70),
    st.integers(1, 12),
)
def test_the_loop_always_ends_with_defined_turns(
    script, mode, style, context, memory_tokens
):
    builder = BUILDERS[style]
    config = AgentConfig(
        mode=mode,
        chunk_size=30,
        question_tokens=10,
        memory_tokens=memory_tokens,
        completion_tokens=60,
        prompt_tokens=3000,
        prompt=builder.config,
    )
    rec = Recurrence(builder, config, "Q?", context, trace=True)
    for _ in driver.run(ScriptedGenerator(script, BYTES), [rec]):
        pass
    trajectory = rec.trajectory
    assert [t.kind for t in trajectory.turns[:-1]] == ["memory"] * trajectory.num_chunks
    assert trajectory.turns[-1].kind == "answer"
    assert trajectory.stop_reason in ("exit_gate", "end_of_context", "empty_context")
    memory = ""
    for turn, said in zip(trajectory.turns, script):
        assert turn.memory_before == memory
        memory = turn.memory
        assert turn.memory_tokens == len(builder.encode_content(memory))
        assert turn.memory_tokens <= memory_tokens
        assert "\ufffd" not in memory
        assert memory == memory.strip()
        assert turn.well_formed is (turn.problem is None)
        if said.finish_reason == "length":
            assert not turn.well_formed
        if not turn.update:
            assert memory == turn.memory_before
        if not turn.well_formed and mode != "memagent":
            assert not turn.update
            assert not turn.exit
        assert turn.completion_ids == said.ids
    record = json.loads(json.dumps(trajectory_to_dict(trajectory)))
    assert trajectory_from_dict(record) == trajectory


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 200_000,
        GOOD * 20_000,
        "<think>t</think><check>yes</check><update>" * 20_000,
        "<think>" + "x" * 2_000_000 + "</think>",
        "<" * 1_000_000,
        r"\boxed{" * 200_000,
        r"\boxed{" * 100_000 + "}" * 100_000,
        "{" * 1_000_000 + r"\boxed{",
        r"\boxed{" + r"\text{" * 100_000 + "}" * 100_001,
        r"\boxed{" + r"{\bf " * 100_000 + "}" * 100_001,
        r"\boxed{" + "\\" * 1_000_000 + "}",
        r"\boxed{" + r"\(" * 200_000 + "}",
        r"\boxed{" + "$\\" * 200_000 + "}",
        r"\boxed{" + " {" * 100_000 + " }" * 100_001,
        r"\boxed{" + r"\textcolor{" * 100_000 + "}" * 100_001,
        r"\boxed" + " " * 1_000_000 + "{",
        r"\boxed{" + "C:" * 200_000 + "~" * 200_000 + "}",
        " " * 1_000_000 + GOOD + " " * 1_000_000,
    ],
    ids=lambda text: text[:12] + str(len(text)),
)
def test_giant_outputs_take_linear_time(text):
    start = time.process_time()
    parse_memory_turn(text)
    extract_boxed(text)
    assert time.process_time() - start < 5
