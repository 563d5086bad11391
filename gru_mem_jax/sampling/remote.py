"""A generator whose policy is served elsewhere, by an OpenAI-compatible server."""

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.errors import RunError
from gru_mem_jax.sampling.remote_server import RefusedError, RemoteConfig, Server

_LOOK_SECONDS = 0.05  # how often `step_until` looks whether it is called
_FEWEST_IN_A_ROW = 4  # failures that end a run


@dataclasses.dataclass(slots=True)
class _Flight:
    """A request under way."""

    submitted: float
    ends: float  # given up then


class RemoteGenerator:
    """Completes requests on a server; implements the agent's `Interruptible`.

    >>> builder = PromptBuilder(TextTokenizer.from_pretrained(directory), config.prompt)
    >>> generator = RemoteGenerator("http://localhost:8000", None, builder)
    >>> agent = GRUMemAgent(generator, builder.encoder, config)

    A request that the server does not complete, after the retries, ends with
    `Completion.failure`, and the others go on. A request that was cancelled is finished
    by the server, and ignored. The key is read from the environment: OPENAI_API_KEY.

    Args:
      url: of the server, such as http://localhost:8000; /v1 is added where it has no
        path.
      model: its name there; None: the only one that is served.
      builder: of the prompts, with the tokenizer of the served model.
      config: how to ask.

    Attributes:
      takes_ids: whether prompts are sent as token ids; else as text.
      window: most tokens of a prompt and its completion; None: not known.

    Raises:
      InputError, RunError: as `Server`.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        builder: PromptBuilder,
        config: RemoteConfig | None = None,
    ):
        self._config = config or RemoteConfig()
        self._server = Server(url, model, builder, self._config)
        self.takes_ids, self.window = self._server.takes_ids, self._server.window
        self._next_handle = 0
        self._waiting: deque[tuple[int, Mapping[str, Any], Request]] = deque()
        self._flights: dict[int, _Flight] = {}
        self._landed: queue.SimpleQueue[tuple[int, Completion, bool]] = (
            queue.SimpleQueue()
        )
        self._in_a_row = 0  # failures of the server
        self._last_failure: str | None = None

    @property
    def name(self) -> str:
        """Server and model, for reports; without any key."""
        return f"{self._server.model} at {self._server.url}"

    # -- the Generator protocol -------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many requests are under way at once."""
        return self._config.concurrency

    def submit(self, request: Request) -> int:
        """Sends a request, or queues it.

        Raises:
          InputError: it has stop strings, or token ids alone for a chat server.
        """
        body = self._server.body(request)
        handle = self._next_handle
        self._next_handle += 1
        self._waiting.append((handle, body, request))
        self._send_waiting()
        return handle

    def step(self) -> Sequence[tuple[int, Completion]]:
        """Waits until at least one request ends.

        Raises:
          RunError: as many requests in a row as are under way at once, and at least 4,
            have failed for reasons of the server.
        """
        return self.step_until(lambda: False)

    def step_until(
        self, called: Callable[[], bool]
    ) -> Sequence[tuple[int, Completion]]:
        """As `step`, but returns early once `called()` is true."""
        self._check_server()
        while self._flights:
            if ended := self._take():
                self._send_waiting()
                return ended
            if called():
                break
        return ()

    def discard(self, handles: Iterable[int]) -> None:
        """Forgets these requests; the server may go on with them."""
        gone = set(handles)
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        for handle in gone:
            self._flights.pop(handle, None)
        self._send_waiting()

    def cancel(self) -> None:
        """Forgets all requests."""
        self._waiting.clear()
        self._flights.clear()
        self._in_a_row = 0

    # -- requests under way -----------------------------------------------------------

    def _send_waiting(self) -> None:
        config = self._config
        while self._waiting and len(self._flights) < config.concurrency:
            handle, body, request = self._waiting.popleft()
            now = time.monotonic()
            most = config.seconds * (1 + config.max_retries)
            self._flights[handle] = _Flight(submitted=now, ends=now + most)
            # A daemon: an answer that nobody waits for must not keep the process.
            threading.Thread(
                target=self._fly,
                args=(handle, body, request),
                name=f"request {handle}",
                daemon=True,
            ).start()

    def _fly(self, handle: int, body: Mapping[str, Any], request: Request) -> None:
        """Waits for one answer, in a thread of its own."""
        of_the_server = False
        try:
            completion = self._server.complete(body, request)
        except RefusedError as error:
            completion = Completion.failed(str(error))
            of_the_server = error.of_the_server
        except Exception as error:  # whatever a reply may do to a parser
            completion = Completion.failed(f"{type(error).__name__}: {error!s:.160}")
        self._landed.put((handle, completion, of_the_server))

    def _take(self) -> list[tuple[int, Completion]]:
        """What has ended, after a short wait for it."""
        ended = []
        wait = _LOOK_SECONDS
        while True:
            try:
                handle, completion, of_the_server = self._landed.get(timeout=wait)
            except queue.Empty:
                break
            wait = 0.0
            if (flight := self._flights.pop(handle, None)) is None:
                continue  # cancelled
            self._count(completion, of_the_server)
            seconds = time.monotonic() - flight.submitted
            ended.append((handle, dataclasses.replace(completion, seconds=seconds)))
        now = time.monotonic()
        for handle in [h for h, flight in self._flights.items() if flight.ends <= now]:
            seconds = now - self._flights.pop(handle).submitted
            late = Completion.failed("no answer within the time limit", seconds)
            self._count(late, of_the_server=True)
            ended.append((handle, late))
        return ended

    def _count(self, completion: Completion, of_the_server: bool) -> None:
        self._in_a_row = self._in_a_row + 1 if of_the_server else 0
        self._last_failure = completion.failure

    def _check_server(self) -> None:
        """Ends a run whose server is gone: all that is left would be failures."""
        if self._in_a_row >= max(_FEWEST_IN_A_ROW, self.capacity):
            failed, self._in_a_row = self._in_a_row, 0
            raise RunError(
                f"{self.name}: {failed} requests in a row have failed, the last one: "
                f"{self._last_failure}"
            )
