"""Replies of servers, read strictly: a completion of the request, or a reason."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remotes import BYTES

from gru_mem_jax.agent.completion import read_completion
from gru_mem_jax.agent.requests import Request, Segment
from gru_mem_jax.sampling.remote_replies import Reading, ReplyError

END = BYTES.stop_ids[0]
REQUEST = Request(
    prompt=(Segment("control", (1, 2, 3)),), max_new_tokens=6, stop_ids=(END,)
)


def read(choice, usage=None, **settings):
    reply = {"choices": [choice], "usage": usage}
    reading = Reading(encoder=BYTES, **({"ids": True, "logprobs": True} | settings))
    return reading.completion(reply, REQUEST)


def text(words, reason="stop"):
    return {"text": words, "finish_reason": reason}


def message(reason="stop", **parts):
    return {"message": parts, "finish_reason": reason}


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        (text("ab"), (97, 98, END)),
        (text("ab", "length"), (97, 98)),
        (text(""), (END,)),
        (text("é\ud800"), (0xC3, 0xA9, ord("?"), END)),
        (message(content="ab"), (97, 98, END)),
        (text("longer than six ids"), (*b"longer than six ids", END)),
        ({"token_ids": [97, END], "finish_reason": "stop"}, (97, END)),
        ({"token_ids": [97], "finish_reason": "stop", "text": "b"}, (97, END)),
        ({"token_ids": [97], "finish_reason": "length"}, (97,)),
        ({"token_ids": [], "finish_reason": "length"}, ()),
        ({"token_ids": [9999], "finish_reason": "length"}, (9999,)),
    ],
)
def test_ids(choice, ids):
    assert read(choice).ids == ids


@pytest.mark.parametrize(
    ("choice", "opened", "said"),
    [
        (message(content="x"), "", "x"),
        (message(content="x", reasoning_content="why"), "", "<think>why</think>x"),
        (message(content="x", reasoning="why"), "<think>\n", "why</think>x"),
        (message(content=None, reasoning="why"), "", "<think>why</think>"),
        (message(content="x", reasoning_content=None), "<think>\n", "x"),
        (message(content="x", reasoning_content=""), "", "x"),
    ],
)
def test_thoughts_that_a_server_gives_apart(choice, opened, said):
    completion = read(choice, opened=opened)
    assert read_completion(completion, BYTES) == (said, None)


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        (text("a<|im_end|>b"), "a control token in the completion"),
        (text("a<|im_start|>"), "a control token in the completion"),
        (text("<think>a</think>"), None),
        (text("a", "length"), "cut at the token limit"),
        ({"token_ids": [97, 300], "finish_reason": "stop"}, "an id without a string"),
    ],
)
def test_malformed_ones_are_so_as_local_ones(choice, problem):
    assert read_completion(read(choice), BYTES)[1] == problem


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (7, "no choices: 7"),
        ([], r"no choices: \[\]"),
        ({"choices": None}, "no choices"),
        ({"choices": [None]}, "no choices"),
        ({"choices": [{}]}, "no choices"),
        ({"choices": [text("a", None)]}, "the completion ended by None"),
        ({"choices": [text("a", "content_filter")]}, "ended by 'content_filter'"),
        ({"choices": [text("a", ["stop"])]}, r"ended by \['stop'\]"),
        ({"choices": [text(None)]}, "the choice has no text"),
        ({"choices": [text(7)]}, "the choice has no text"),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "no content"),
        ({"choices": [message(content=["a"])]}, "the message has no content"),
        (
            {"choices": [text("a")], "usage": {"prompt_tokens": 4}},
            "read 4 of the prompt",
        ),
        (
            {"choices": [text("a")], "usage": {"completion_tokens": 7}},
            "the server sent 7 tokens, and the budget is 6",
        ),
        (
            {"choices": [{"token_ids": [1] * 7, "finish_reason": "length"}]},
            "the server sent 7 tokens, and the budget is 6",
        ),
        ({"choices": [text("a") | {"prompt_token_ids": [1, 2, 4]}]}, "another prompt"),
        ({"choices": [{"token_ids": [-1], "finish_reason": "stop"}]}, "token_ids are"),
        ({"choices": [{"token_ids": [True], "finish_reason": "stop"}]}, "token_ids"),
        ({"choices": [{"token_ids": "12", "finish_reason": "stop"}]}, "token_ids are"),
    ],
)
def test_no_completion(reply, reason):
    with pytest.raises(ReplyError, match=reason):
        Reading(encoder=BYTES, ids=True).completion(reply, REQUEST)


def told(values, chat=False):
    shown = {"content": [{"logprob": v} for v in values]} if chat else None
    return {
        "token_ids": [97, END],
        "finish_reason": "stop",
        "logprobs": shown or {"token_logprobs": values},
    }


@pytest.mark.parametrize("chat", [False, True])
def test_logprobs(chat):
    assert read(told([-0.5, 0], chat)).logprobs == (-0.5, 0.0)
    assert read(told([-0.5, 0], chat), logprobs=False).logprobs == ()
    # A stop id that the server left out has none, so all are unknown.
    choice = told([-0.5], chat) | {"token_ids": [97]}
    assert read(choice).logprobs == ()
    bad = (float("nan"), float("inf"), None, "0", True)
    for value in bad:
        with pytest.raises(ReplyError, match="a logprob is"):
            read(told([-0.5, value], chat))
    with pytest.raises(ReplyError, match="there are not 2 logprobs"):
        read(told([-0.5], chat))


def test_usage():
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    assert read(text("a"), usage).shared_prompt_tokens == 2
    for cached in (None, -1, "2", 2.0, True):
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
        assert read(text("a"), usage).shared_prompt_tokens == 0
    usage["prompt_tokens_details"] = {"cached_tokens": 9}
    assert read(text("a"), usage).shared_prompt_tokens == 3
    # A chat server counts the tokens of its own template and tokenizer.
    assert read(text("a"), {"prompt_tokens": 4}, ids=False).ids == (97, END)


NAMES = [
    "choices",
    "message",
    "text",
    "token_ids",
    "finish_reason",
    "usage",
    "logprobs",
]
NAMES += ["content", "prompt_tokens", "completion_tokens", "token_logprobs", "logprob"]
VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(-2, 300), st.floats()),
        st.sampled_from(["stop", "length", "\ud800", "<|im_end|>"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({"choices": st.lists(VALUES, max_size=2), "usage": VALUES})
)
def test_any_json_is_a_completion_or_a_reason(reply):
    reply = json.loads(json.dumps(reply))
    reading = Reading(encoder=BYTES, ids=False, logprobs=True)
    with contextlib.suppress(ReplyError):
        completion = reading.completion(reply, REQUEST)
        assert completion.finish_reason in ("stop", "length")
        assert len(completion.logprobs) in (0, len(completion.ids))
