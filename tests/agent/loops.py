"""What tests of the loop share: a small agent over bytes, and ways to run it."""

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig, replace_settings
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator

BYTES = ByteEncoder()
CONFIG = AgentConfig(
    chunk_size=10,
    question_tokens=32,
    memory_tokens=16,
    completion_tokens=200,
    prompt_tokens=400,
    prompt=PromptConfig(style="compact"),
)
BUILDER = PromptBuilder(BYTES, CONFIG.prompt)


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
