"""What tests of the loop share: a small agent over bytes, and ways to run it."""

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig, replace_settings
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator

BYTES = ByteEncoder()
CLOSED = "<think>\n\n</think>\n\n"
CONFIG = AgentConfig(
    chunk_size=10,
    question_tokens=32,
    memory_tokens=16,
    completion_tokens=200,
    prompt_tokens=400,
    prompt=PromptConfig(style="compact"),
)
BUILDER = PromptBuilder(BYTES, CONFIG.prompt)


class Thinking(ByteEncoder):
    """A template that goes on after the assistant's role."""

    def __init__(self, end, **options):
        super().__init__(**options)
        self.end, self.told = end, []

    def render_chat(self, messages, variables=None):
        self.told.append(variables)
        off = variables and variables.get("enable_thinking") is False
        return super().render_chat(messages) + (CLOSED if off else self.end)


def reply(check="yes", update="m", exit_="continue", think="t"):
    """A gated turn's completion."""
    return (
        f"<think>{think}</think><check>{check}</check>"
        f"<update>{update}</update><next>{exit_}</next>"
    )


def recurrence(context="0123456789" * 3, question="Who?", *, kwargs=None, **settings):
    """A recurrence over the small agent's settings, some of them changed."""
    config = replace_settings(CONFIG, **settings)
    return Recurrence(BUILDER, config, question, context, **(kwargs or {}))


def run(script, rec):
    """Runs one recurrence on a script; returns its trajectory and the generator."""
    generator = ScriptedGenerator(script, BYTES)
    for _ in driver.run(generator, [rec]):
        pass
    return rec.trajectory, generator
