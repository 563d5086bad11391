"""Faults P5 and P6: chat templates that lose their content, or never end."""

import re
import time

import hostile_tokenizers as hostile
import pytest
from hostile_templates import DANGEROUS, LOSSY

from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.tokenization import TextTokenizer, chat_template


class Templated(ByteEncoder):
    """Bytes behind any chat template."""

    def __init__(self, template, date="2024-07-26"):
        super().__init__()
        self._template, self._date = template, date

    def render_chat(self, messages):
        variables = chat_template.variables(messages, {}, generate=True)
        return chat_template.render(self._template, variables, self._date)


@pytest.mark.parametrize("name", LOSSY)
def test_p5_content_comes_once_and_in_order_or_not_at_all(name):
    template, message = LOSSY[name]
    with pytest.raises(PolicyError, match=re.escape(message)):
        PromptBuilder(Templated(template), PromptConfig(style="compact"))


def test_p5_trimming_the_ends_is_harmless():
    template = "<|im_start|>{{ messages[0].content | trim }}<|im_end|>"
    builder = PromptBuilder(Templated(template))
    roles = [s.role for s in builder.gated((1,), (2,), (3,))]
    assert roles[1::2] == ["question", "memory", "chunk"]


def test_p5_the_date_is_a_setting():
    template = "{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}"
    message = [{"role": "user", "content": "x"}]
    assert Templated(template).render_chat(message) == "26 Jul 2024|x"
    later = Templated(template, "2026-01-02")
    assert later.render_chat(message) == "02 Jan 2026|x"


@pytest.mark.parametrize("name", DANGEROUS)
def test_p6_templates_are_bounded_at_load(name, monkeypatch):
    monkeypatch.setattr(chat_template, "_MAX_CPU_SECONDS", 1)
    template, message = DANGEROUS[name]
    start = time.monotonic()
    with pytest.raises(PolicyError, match=message) as caught:
        TextTokenizer(
            hostile.gemma_like(),
            template=template,
            special_tokens=hostile.GEMMA_TOKENS,
        )
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - start < 30


def test_p6_a_template_that_sleeps_is_ended_by_the_clock(monkeypatch):
    monkeypatch.setattr(chat_template, "_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(PolicyError, match="did not end within"):
        chat_template.render("{{ 1 }} unlike any other", "{}", "2024-07-26")


def test_p6_what_lies_beside_a_script_is_not_imported(tmp_path, monkeypatch):
    for name in ("types", "json", "datetime"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert chat_template.render("{{ 1 + 1 }} beside", "{}", "2024-07-26") == "2 beside"
