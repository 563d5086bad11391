"""What tests of servers share: a small agent over bytes, and its script."""

import re

from gru_mem_jax.agent import GRUMemAgent
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.sampling import RemoteConfig, RemoteGenerator
from gru_mem_jax.testing import ByteEncoder, CompletionServer, ScriptedGenerator
from gru_mem_jax.testing.scripted import prompt_text

BYTES = ByteEncoder()
CONFIG = AgentConfig(
    chunk_size=20,
    question_tokens=64,
    memory_tokens=32,
    completion_tokens=200,
    prompt_tokens=400,
    prompt=PromptConfig(style="compact"),
)
BUILDER = PromptBuilder(BYTES, CONFIG.prompt)
PAIRS = [(f"Q{i}", f"{i} é 0123456789 and so on " * (i % 3)) for i in range(6)]
_PROMPT = re.compile(
    r"<problem>(.*?)</problem><memory>(.*?)</memory>(?:<section>(.*?)</section>)?", re.S
)


def policy(request):
    """Reads a prompt's whole text, as a server does, and remembers what it saw."""
    found = _PROMPT.search(prompt_text(request, BYTES))
    if found is None:  # what a server is tried with
        return "Hello"
    question, memory, chunk = found.groups()
    if chunk is None:
        return rf"\boxed{{{question.strip()}: {memory.strip()}}}"
    seen = (memory.replace("none", "").strip() + chunk[:2]).strip()
    return (
        f"<think>é</think><check>yes</check><update>{seen}</update>"
        "<next>continue</next>"
    )


def serving(script=policy, **settings):
    """A server around a script; `with` starts it."""
    return CompletionServer(
        ScriptedGenerator(script, BYTES, capacity=4), BYTES, **settings
    )


def remote(server, model=None, builder=BUILDER, **settings):
    """A generator on a server that makes no second attempts, unless told to."""
    settings = {"concurrency": 3, "max_retries": 0, "seconds": 20.0} | settings
    return RemoteGenerator(server.url, model, builder, RemoteConfig(**settings))


def agent(generator):
    """An agent on any generator."""
    return GRUMemAgent(generator, BYTES, CONFIG)


def essence(trajectories):
    """All of some trajectories but their seconds."""
    return [
        (t.answer, t.failure, t.stop_reason, [(u.text, u.memory) for u in t.turns])
        for t in trajectories
    ]
