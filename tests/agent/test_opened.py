"""What a chat template has opened of a reply is the beginning of the turn's text."""

import dataclasses
import json

import pytest
from loops import CLOSED, CONFIG, Thinking, reply

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import (
    AgentConfig,
    config_from_json,
    config_to_dict,
    replace_settings,
)
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.parse import TAGS, after_thought
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import END, START
from gru_mem_jax.testing.scripted import ScriptedGenerator

OPEN = "<think>\n"


@pytest.mark.parametrize("format_tags", [True, False])
@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("", ""),
        ("\n\n  ", ""),
        ("<think>", "<think>"),
        ("  " + OPEN, OPEN),
        (CLOSED, CLOSED),
        ("<think>\nOkay, ", "<think>\nOkay, "),
        ("<think></think><check>", "<think></think><check>"),
        # No beginning of the format: what follows is parsed as it is.
        ("<check>", ""),
        ("</think>", ""),
        ("<reasoning>", ""),
        ("<think><think>", "<think>"),
        ("<think>.</think>?<think>", "<think>"),
        # Said to the user, or by somebody else.
        (f"Use <think>.{END}{START}assistant\n", ""),
        (f"Use <think>, </think>.{END}{START}assistant\n{OPEN}", OPEN),
    ],
)
def test_what_a_template_opens(end, opened, format_tags):
    builder = PromptBuilder(Thinking(end, format_tags=format_tags))
    assert builder.opened == opened
    # The prompt holds it, and all else that the template says.
    shown = builder.encoder.decode(prompt_ids(builder.answer((1,), (2,))))
    assert shown.endswith("assistant\n" + end)


def run(end, script, **settings):
    encoder = Thinking(end)
    config = replace_settings(CONFIG, prompt_tokens=500, **settings)
    rec = Recurrence(PromptBuilder(encoder, config.prompt), config, "Who?", "0" * 20)
    for _ in driver.run(ScriptedGenerator(script, encoder), [rec]):
        pass
    return rec.trajectory


@pytest.mark.parametrize("end", ["<think>", OPEN, CLOSED, ""])
def test_turns_of_a_thinking_template(end):
    left = reply("yes", "m", "continue").replace("<think>t", "", 1)
    if end == CLOSED:
        left = left.removeprefix("</think>")
    if not end:
        left = "<think>" + left
    trajectory = run(end, [left, left, f"so</think>\n\\boxed{{{len(end)}}}"])
    first, second, answer = trajectory.turns
    assert first.well_formed
    assert first.problem is None
    assert first.text == end + left
    assert (first.update, first.memory, second.exit) == (True, "m", False)
    assert first.completion_tokens < len(first.text.encode())
    assert answer.text.startswith(end + "so")
    assert trajectory.answer == str(len(end))
    assert trajectory.well_formed
    # Of the completion alone is parsed nothing: a second beginning is one too many.
    again = run(end, ["<think>" + left, left, "so"]).turns[0]
    assert again.problem == "<think> more than once"
    assert again.text == end + "<think>" + left


def test_a_cut_turn_and_one_with_a_control_token_stay_malformed():
    trajectory = run(OPEN, ["x" * 300, f"a{START}b", r"\boxed{1}"])
    cut, control, _ = trajectory.turns
    assert cut.problem == "cut at the token limit"
    assert control.problem == "a control token in the completion"


@pytest.mark.parametrize(
    ("said", "memory"),
    [
        ("a thought</think>\n the memory ", "the memory"),
        ("</think>m", "m"),
        ("no thought", "no thought"),
        ("a</think>b</think>c", "b</think>c"),
        ("", ""),
    ],
)
def test_memagent_remembers_what_comes_after_the_thought(said, memory):
    turn = run(OPEN, [said, said, "1"], mode="memagent").turns[0]
    assert (turn.memory, turn.problem, turn.update) == (memory, None, True)
    assert turn.text == OPEN + said


def test_memagent_keeps_its_memory_where_a_thought_is_cut():
    turns = run(OPEN, ["</think>m", "x" * 300, "1"], mode="memagent").turns
    assert (turns[1].memory, turns[1].problem) == ("m", "cut at the token limit")
    long = "a thought</think>" + "m" * 300
    turn = run(OPEN, [long, "", "1"], mode="memagent").turns[0]
    assert (turn.memory, turn.memory_cut) == ("m" * 15, True)
    # A thought that the template has not opened is the policy's own words.
    turn = run("", ["<think>a</think>b", "", "1"], mode="memagent").turns[0]
    assert turn.memory.startswith("<think>a")
    turn = run(CLOSED, ["b", "", "1"], mode="memagent").turns[0]
    assert turn.memory == "b"


def test_after_thought():
    assert after_thought("no thought") == "no thought"
    assert after_thought(" <think>a</think> b") == " b"
    assert after_thought("<think>a") is None
    assert after_thought("b <think>a") == "b <think>a"


@pytest.mark.parametrize(
    ("end", "whole", "left"),
    [
        ("", "<think> a</think>b", "<think> a</think>b"),
        ("<think>", "<think> a</think>b", " a</think>b"),
        (OPEN, "<think> a</think>b", " a</think>b"),
        (CLOSED, "<think> a</think>b", "b"),
        (OPEN, r"\boxed{1}", r"</think>\boxed{1}"),
        (CLOSED, r"\boxed{1}", r"\boxed{1}"),
        (OPEN, "", "</think>"),
    ],
)
def test_what_is_left_to_say(end, whole, left):
    assert PromptBuilder(Thinking(end)).left_to_say(whole) == left


def test_a_template_full_of_tags_takes_no_time():
    assert PromptBuilder(Thinking("<think>" * 100_000)).opened == "<think>"
    assert PromptBuilder(Thinking("<think>" + TAGS[1] * 100_000)).opened == ""


# -- template_variables --------------------------------------------------------------


def test_variables_reach_the_template_and_the_settings():
    config = AgentConfig(prompt=PromptConfig(template_variables={"depth": 2}))
    encoder = Thinking(OPEN)
    PromptBuilder(encoder, config.prompt)
    assert encoder.told
    assert all(told == {"depth": 2} for told in encoder.told)
    record = json.loads(json.dumps(config_to_dict(config)))
    assert record["prompt"]["template_variables"] == {"depth": 2}
    assert config_from_json(json.dumps(record)) == config
    assert hash(config.prompt) == hash(dataclasses.replace(config.prompt))
    off = replace_settings(config, template_variables={"enable_thinking": False})
    assert PromptBuilder(Thinking(OPEN), off.prompt).opened == CLOSED
    assert off.prompt != config.prompt


def test_what_is_given_may_change_afterwards():
    given = {"a": 1}
    config = PromptConfig(template_variables=given)
    given["a"] = 2
    assert config.template_variables == {"a": 1}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "template_variables must map names to values"),
        ([("a", 1)], "template_variables must map names to values"),
        ({"": 1}, "'' cannot be the name of a variable"),
        ({"a b": 1}, "'a b' cannot be the name of a variable"),
        ({1: 1}, "1 cannot be the name of a variable"),
        ({"messages": []}, "messages is reserved: prompts set it themselves"),
        ({"a": [1]}, r"a must be a finite number, text, .* got \[1\]"),
        ({"a": float("nan")}, "a must be a finite number"),
        ({"a": "\ud800"}, "template_variables: a: character 0 is the lone surrogate"),
    ],
)
def test_variables_that_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        PromptConfig(template_variables=value)


def test_a_run_is_resumed_with_equal_variables_alone():
    def begin(resume=None, **variables):
        config = replace_settings(CONFIG, template_variables=variables)
        builder = PromptBuilder(Thinking(""), config.prompt)
        return Recurrence(builder, config, "Who?", "0" * 20, resume=resume)

    first = begin()
    first.stop("interrupted")
    record = trajectory_to_dict(first.trajectory)
    # As it was saved before there were any.
    del record["settings"]["prompt"]["template_variables"]
    saved = trajectory_from_dict(json.loads(json.dumps(record)))
    begin(saved)
    with pytest.raises(
        InputError, match=r"template_variables\.a is 1, expected absent as in"
    ):
        begin(saved, a=1)
