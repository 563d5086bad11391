"""Prompts are segments: our wording around ids that are never looked at again."""

import pytest

from gru_mem_jax.agent.prompts import (
    ORDERS,
    PROMPT_KINDS,
    STYLES,
    PromptBuilder,
    PromptConfig,
    fill,
    template_tokens,
    wording,
)
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

BYTES = ByteEncoder()
MEMAGENT = """\
You are presented with a problem, a section of an article that may contain the answer \
to the problem, and a previous memory. Please read the provided section carefully and \
update the memory with the new information that helps to answer the problem. Be sure \
to retain all relevant details from the previous memory while adding any new, useful \
information.

<problem>\x20
Who?
</problem>

<memory>
No previous memory
</memory>

<section>
Text.
</section>

Updated memory:
"""
ANSWER = """\
You are presented with a problem and a previous memory. Please answer the problem \
based on the previous memory and put the answer in \\boxed{}.

<problem>\x20
Who?
</problem>

<memory>
She.
</memory>

Your answer:
"""


def ids(text):
    return tuple(BYTES.encode(text))


def shown(prompt):
    return BYTES.decode(prompt_ids(prompt))


def chat(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_memagents_own_words():
    builder = PromptBuilder(BYTES)
    assert shown(builder.memagent(ids("Who?"), (), ids("Text."))) == chat(MEMAGENT)
    assert shown(builder.answer(ids("Who?"), ids("She."))) == chat(ANSWER)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            "memory_first",
            "<problem> q?</problem><memory> m</memory><section>c</section><gated>",
        ),
        (
            "chunk_first",
            "<section>c</section><problem> q?</problem><memory> m</memory><gated>",
        ),
    ],
)
def test_compact(order, expected):
    builder = PromptBuilder(BYTES, PromptConfig(order=order, style="compact"))
    question, memory = builder.encode_content("q?"), builder.encode_content("m")
    assert shown(builder.gated(question, memory, ids("c"))) == chat(expected)
    rewrite = builder.memagent(question, memory, ids("c"))
    assert shown(rewrite) == chat(expected.replace("<gated>", "<rewrite>"))
    answer = "<problem> q?</problem><memory> none</memory><answer>"
    assert shown(builder.answer(question, ())) == chat(answer)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("order", "roles"),
    [
        ("memory_first", ["question", "memory", "chunk"]),
        ("chunk_first", ["chunk", "question", "memory"]),
    ],
)
def test_segments_and_their_order(order, roles, style):
    builder = PromptBuilder(BYTES, PromptConfig(order=order, style=style))
    for prompt in (
        builder.gated((1, 2), (3,), (4, 5)),
        builder.memagent((1, 2), (3,), (4, 5)),
    ):
        assert [s.role for s in prompt[1::2]] == roles
        assert {s.role for s in prompt[::2]} == {"control"}
        inserted = {s.role: s.ids for s in prompt[1::2]}
        assert inserted == {"question": (1, 2), "memory": (3,), "chunk": (4, 5)}
    answer = builder.answer((1, 2), (3,))
    assert [s.role for s in answer[1::2]] == ["question", "memory"]


def test_chunk_first_begins_alike_for_every_question():
    builder = PromptBuilder(BYTES, PromptConfig(order="chunk_first"))
    one = builder.gated(ids("Who?"), (), ids("Text."))
    other = builder.gated(ids("When?"), ids("m"), ids("Text."))
    assert one[:3] == other[:3]
    assert one[1].role == "chunk"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_overhead_is_what_is_not_inserted(kind, order, style):
    builder = PromptBuilder(BYTES, PromptConfig(order=order, style=style))
    chunk = () if kind == "answer" else ((1,) * 30,)
    prompt = getattr(builder, kind)((1,) * 10, (1,) * 20, *chunk)
    inserted = 10 + 20 + len(chunk) * 30
    assert len(prompt_ids(prompt)) == builder.overhead_tokens(kind) + inserted
    text = wording(kind, builder.config)
    for field in ("{question}", "{memory}", "{chunk}"):
        assert text.count(field) == (field != "{chunk}" or kind != "answer")
        text = text.replace(field, "")
    assert builder.overhead_tokens(kind) >= len(chat("")) - 32


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_control_segments_know_their_part_of_the_message(kind, style):
    builder = PromptBuilder(BYTES, PromptConfig(style=style))
    chunk = () if kind == "answer" else (ids("Text."),)
    prompt = getattr(builder, kind)(ids("Who?"), ids("é"), *chunk)
    shown = "".join(BYTES.decode(s.ids) if s.text is None else s.text for s in prompt)
    message = wording(kind, builder.config)
    for name, text in (("question", "Who?"), ("memory", "é"), ("chunk", "Text.")):
        message = message.replace(f"{{{name}}}", text)
    assert shown == message
    assert BYTES.decode(prompt_ids(prompt)) == chat(message)


def test_another_wording():
    builder = PromptBuilder(BYTES)
    template = builder.template("a {chunk} <b> {question}")
    assert template_tokens(template) == len(BYTES.encode_control(chat("a  <b> ")))
    prompt = fill(template, {"chunk": ids("x"), "question": ids("é"), "memory": (1,)})
    assert [segment.role for segment in prompt] == [
        *("control", "chunk", "control", "question", "control")
    ]
    assert BYTES.decode(prompt_ids(prompt)) == chat("a x <b> é")
    assert BYTES.decode(prompt_ids(fill(builder.template("a"), {}))) == chat("a")


def test_gated_wording_shows_the_format():
    text = wording("gated", PromptConfig())
    places = [text.index(f"<{name}>") for name in ("think", "check", "update", "next")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("a", " a"), (" a", " a"), ("\na", "\na")]
)
def test_compact_content_starts_with_white_space(text, expected):
    builder = PromptBuilder(BYTES, PromptConfig(style="compact"))
    assert builder.encode_content(text) == ids(expected)
    assert PromptBuilder(BYTES).encode_content(text) == ids(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("order", "question_first", "order must be one of memory_first, chunk_first"),
        ("style", None, "style must be one of full, compact; got None"),
    ],
)
def test_refuses(field, value, message):
    with pytest.raises(InputError, match=message):
        PromptConfig(**{field: value})
