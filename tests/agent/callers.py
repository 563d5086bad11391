"""What tests of several callers share: generators that notice misuse, and threads."""

import contextlib
import faulthandler
import random
import threading
import time

from loops import BYTES, CONFIG, reply

from gru_mem_jax.agent import GRUMemAgent
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

PATIENCE = 30.0  # seconds, after which a deadlock is one


class Broken(Exception):
    """What a step raises while a request is under way that it cannot bear."""


def policy(request):
    """An answer that shows the question and all that was read: nothing may mix."""
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{said['question'].strip()}/{said['memory'].strip()}}}"
    memory = "" if "none" in said["memory"] else said["memory"].strip()
    return reply(update=(memory + said["chunk"][:2])[-16:])


class Guarded(ScriptedGenerator):
    """Refuses to be used by two threads at once, or beyond its capacity.

    A request with "broken" in its question makes every step fail while it is under way.
    """

    def __init__(self, script=policy, *, pause=0.0, **kwargs):
        super().__init__(script, BYTES, **kwargs)
        self._busy = threading.Lock()
        self._pause = pause
        self._luck = random.Random(0)
        self._under_way = {}
        self.misuse = []

    @contextlib.contextmanager
    def _alone(self):
        if not self._busy.acquire(blocking=False):
            self.misuse.append("two threads at once")
            raise AssertionError("two threads at once")
        try:
            yield
        finally:
            self._busy.release()

    def _rest(self):
        time.sleep(self._pause * self._luck.random())

    def submit(self, request):
        with self._alone():
            handle = super().submit(request)
            self._under_way[handle] = said_in(request, BYTES)["question"]
            if len(self._submitted) > self.capacity:
                self.misuse.append("more than it works on")
            return handle

    def step(self):
        with self._alone():
            self._rest()
            if any("broken" in self._under_way[h] for h in self._submitted):
                raise Broken
            return super().step()

    def cancel(self):
        with self._alone():
            super().cancel()

    @property
    def submitted(self):
        return len(self._submitted)


class Spoken(Guarded):
    """The same, but interruptible: a step has several parts."""

    def step_until(self, called):
        for _ in range(3):
            with self._alone():
                self._rest()
            if called():
                return []
        return self.step()

    def discard(self, handles):
        with self._alone():
            for handle in handles:
                del self._submitted[handle]


KINDS = {"guarded": Guarded, "spoken": Spoken}


def agent_on(generator, config=CONFIG):
    return GRUMemAgent(generator, BYTES, config)


def together(*functions, patience=PATIENCE):
    """Runs functions in threads; their results, or what they raised."""
    results = [None] * len(functions)

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [
        threading.Thread(target=run, args=(i,), daemon=True)
        for i in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    join(threads, patience)
    return results


def join(threads, patience=PATIENCE):
    until = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            faulthandler.dump_traceback()
            raise AssertionError("a thread still waits: a deadlock")
