"""`gru-mem` with a script in the place of the policy; run as a program by tests.

What is said is a function of the request alone, seed included: so two runs that make
equal requests, and only they, give equal trajectories.

SCRIPT_DELAY: seconds a turn takes. SCRIPT_BUSY_AT: the turn, counted from 0 in this
process, in which the "policy" computes for long without hearing signals.
SCRIPT_SHUFFLE: requests that run side by side end in an order drawn from this seed.
"""

import contextlib
import hashlib
import os
import sys
import time

from gru_mem_jax.cli import ask_session
from gru_mem_jax.cli.main import main
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

ENCODER = ByteEncoder()
DELAY = float(os.environ.get("SCRIPT_DELAY", "0"))
SHUFFLE = os.environ.get("SCRIPT_SHUFFLE")
BUSY_AT = int(os.environ.get("SCRIPT_BUSY_AT", "-1"))


class Generator(ScriptedGenerator):
    """Takes its time where a policy would: in `step`."""

    steps = 0

    def submit(self, request):
        handle = super().submit(request)
        self.requests[-1] = None  # a fake that remembers would seem to leak
        return handle

    def step(self):
        if self.steps == BUSY_AT:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
        time.sleep(DELAY)
        self.steps += 1
        return super().step()


def say(request) -> str:
    said = {role: text.strip() for role, text in said_in(request, ENCODER).items()}
    memory = "" if said["memory"] == "none" else said["memory"]
    if "chunk" not in said:
        if "BOX" in said["question"]:  # what the question asks for, as it is
            return said["question"].split("BOX", 1)[1]
        before = "It is " if request.constraint is None else ""
        return rf"{before}\boxed{{{memory or 'unknown'}}}"
    chunk = said["chunk"]
    if "GARBAGE" in chunk:
        return "no format at all"
    end = "end" if "STOP" in chunk else "continue"
    if "KEY" in chunk:
        memory = f"{memory} {chunk.split('KEY', 1)[1][:6]}:{request.seed % 1000}"
        update = f"<check>yes</check><update>{memory}</update>"
    else:
        update = "<check>no</check><update></update>"
    return f"<think>so</think>{update}<next>{end}</next>"


def load(directory, question, config, engine_config, view, cache):
    """Stands in for ask_session.load."""
    slots = engine_config.slots
    view.status("loading the script" + (f", {slots} slots" if slots > 1 else ""))
    seed = None if SHUFFLE is None else int(SHUFFLE)
    generator = Generator(say, ENCODER, capacity=slots, shuffle_seed=seed)
    return ENCODER, generator, "float32"


@contextlib.contextmanager
def replaced():
    """ask_session on the script, without JAX."""
    names = {"load": load, "_announced": lambda view: contextlib.nullcontext()}
    old = {name: getattr(ask_session, name) for name in names}
    start, ask_session.runtime.start = ask_session.runtime.start, lambda: None
    vars(ask_session).update(names)
    try:
        yield
    finally:
        vars(ask_session).update(old)
        ask_session.runtime.start = start


if __name__ == "__main__":
    with replaced():
        status = main()
    sys.exit(status)
