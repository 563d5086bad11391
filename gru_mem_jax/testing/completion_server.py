"""A small OpenAI-compatible server around a generator: for tests, not for the public.

    python -m gru_mem_jax.testing.completion_server --policy DIR --port 8000

It answers /v1/models, /v1/completions (token ids or text) and /v1/chat/completions, has
of vLLM's further fields those that the library sends, and can be told to fail.
"""

import argparse
import dataclasses
import functools
import http.server
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from gru_mem_jax.agent.encoding import PLACEHOLDER, Encoder
from gru_mem_jax.agent.requests import Completion, Generator, Request, Segment
from gru_mem_jax.agent.sharing import join
from gru_mem_jax.errors import GRUMemError, InputError

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with an answer.

    Attributes:
      seconds: that pass before it; the rest is as it would be without a fault, unless
        one of the others is given.
      status, body, headers: what is sent in its place; `body` is not checked to be
        JSON.
      cut: the connection is closed after half of the body.
      close: it is closed without an answer.
      drip: pause after every byte of the body.
    """

    seconds: float = 0.0
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cut: bool = False
    close: bool = False
    drip: float = 0.0


class CompletionServer:
    """Serves a generator on a port of this machine; a context manager.

    >>> with CompletionServer(ScriptedGenerator(script, encoder), encoder) as server:
    ...     agent_on(RemoteGenerator(server.url, None, builder))

    Chat messages are rendered by the encoder's template and tokenised as a whole, so
    that control strings in them are control tokens, as on other servers.

    Args:
      generator: answers the requests, those of several connections side by side.
      encoder: its tokenizer.
      model: name of the model.
      takes_ids: whether prompts of token ids are taken; else they get status 400.
      tells_ids: whether vLLM's `return_token_ids` is obeyed.
      bare: refuses fields that OpenAI's servers do not know.
      key: that requests must have; None: any.
      window: most tokens of a prompt and its completion; None: no limit is told.
      fault: of the request of a number, which counts from 0; None: it is answered.
      port: 0 takes a free one.

    Attributes:
      url: with /v1.
      asked: bodies of the requests for completions, in order of arrival.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        *,
        model: str = "policy",
        takes_ids: bool = True,
        tells_ids: bool = True,
        bare: bool = False,
        key: str | None = None,
        window: int | None = None,
        fault: Callable[[int], Fault | None] = lambda number: None,
        port: int = 0,
    ):
        self.generator, self.encoder, self.model = generator, encoder, model
        self.takes_ids, self.tells_ids, self.bare = takes_ids, tells_ids, bare
        self.key, self.window, self.fault = key, window, fault
        self.asked: list[Json] = []
        self.closed = False
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "CompletionServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops answering; connections are refused from now on, open ones closed."""
        self.closed = True
        self._server.shutdown()
        self._server.server_close()

    def note(self, body: Json) -> int:
        """Keeps a request for a completion, and returns its number."""
        with self._lock:
            self.asked.append(body)
            return len(self.asked) - 1

    def models(self) -> Json:
        """The reply of /v1/models."""
        row = {"id": self.model, "object": "model"}
        window = {} if self.window is None else {"max_model_len": self.window}
        return {"object": "list", "data": [row | window]}

    def complete(self, body: Json, *, chat: bool) -> Json:
        """The reply to a request.

        Raises:
          InputError: it is refused.
        """
        if body.get("model") != self.model:
            raise InputError(f"The model `{body.get('model')}` does not exist.")
        if self.bare and (odd := body.keys() - _OPENAI):
            raise InputError(f"Unrecognized request argument supplied: {sorted(odd)}")
        ids = self._chat_ids(body) if chat else self._prompt_ids(body)
        budget = int(body.get("max_completion_tokens") or body.get("max_tokens", 16))
        if self.window is not None and len(ids) + budget > self.window:
            raise InputError(
                f"This model's maximum context length is {self.window} tokens."
            )
        request = Request(
            prompt=(Segment("control", tuple(ids)),),
            max_new_tokens=budget,
            stop_ids=tuple(body.get("stop_token_ids") or self.encoder.stop_ids),
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            top_k=max(0, body.get("top_k", 0)),
            seed=body.get("seed", 0),
        )
        caller = join(self.generator)
        try:
            caller.submit(request)
            ((_, completion),) = caller.step()
        finally:
            caller.cancel()
        return self._reply(body, ids, completion, chat)

    def _prompt_ids(self, body: Json) -> list[int]:
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return self.encoder.encode_control(prompt, start=True)
        whole = isinstance(prompt, list) and all(type(i) is int for i in prompt)
        if not self.takes_ids or not whole or not prompt:
            raise InputError("prompt must be a string")
        return list(prompt)

    def _chat_ids(self, body: Json) -> list[int]:
        (message,) = body["messages"]
        variables = body.get("chat_template_kwargs") or {}
        around = self._around(json.dumps(variables))
        return self.encoder.encode_control(message["content"].join(around), start=True)

    @functools.cache  # noqa: B019
    def _around(self, variables: str) -> tuple[str, str]:
        """What the chat template puts before and after a user's message."""
        messages = [{"role": "user", "content": PLACEHOLDER}]
        given = json.loads(variables)
        text = self.encoder.render_chat(messages, *([given] if given else []))
        before, _, after = text.partition(PLACEHOLDER)
        return before, after

    def _reply(
        self, body: Json, prompt: list[int], done: Completion, chat: bool
    ) -> Json:
        ids = list(done.ids)
        shown = ids[:-1] if ids[-1:] and ids[-1] in self.encoder.stop_ids else ids
        text = self.encoder.decode(shown)
        choice: Json = {"index": 0, "finish_reason": done.finish_reason}
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if self.tells_ids and body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        asked = body.get("logprobs")
        if asked is not None and asked is not False:
            tokens = [{"logprob": value} for value in done.logprobs]
            told = {"content": tokens} if chat else {"token_logprobs": done.logprobs}
            choice["logprobs"] = told
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(ids),
            "total_tokens": len(prompt) + len(ids),
            "prompt_tokens_details": {"cached_tokens": done.shared_prompt_tokens},
        }
        kind = "chat.completion" if chat else "text_completion"
        head = {"id": "cmpl-0", "object": kind, "created": 0, "model": self.model}
        return {**head, "choices": [choice], "usage": usage}


_OPENAI = {
    *("model", "prompt", "messages", "temperature", "top_p", "seed", "logprobs"),
    "max_completion_tokens",
}


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: CompletionServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answers /v1/models."""
        if self._allowed():
            if self.path == "/v1/models":
                self._send(200, self.owner.models())
            else:
                self._send(404, _error("no such path"))

    def do_POST(self) -> None:
        """Answers the two kinds of completions."""
        text = self.rfile.read(int(self.headers.get("content-length", 0)))
        chat = self.path == "/v1/chat/completions"
        if not self._allowed():
            return
        if not chat and self.path != "/v1/completions":
            self._send(404, _error("no such path"))
            return
        body = json.loads(text)
        fault = self.owner.fault(self.owner.note(body)) or Fault()
        time.sleep(fault.seconds)
        if fault.close:
            self.close_connection = True
        elif fault.status is not None or fault.body is not None:
            shown = "it was told to fail" if fault.body is None else fault.body
            self._send(fault.status or 200, shown, fault)
        else:
            try:
                self._send(200, self.owner.complete(body, chat=chat), fault)
            except GRUMemError as error:
                status = 400 if isinstance(error, InputError) else 500
                self._send(status, _error(str(error)))
            except (KeyError, TypeError, ValueError) as error:  # of this body
                self._send(400, _error(f"{type(error).__name__}: {error}"))

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _allowed(self) -> bool:
        if self.owner.closed:
            self.close_connection = True
            return False
        key = self.owner.key
        if key is None or self.headers.get("authorization") == f"Bearer {key}":
            return True
        self._send(401, _error("Incorrect API key provided"))
        return False

    def _send(self, status: int, reply: Json | str, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        text = reply if isinstance(reply, str) else json.dumps(reply)
        data = text.encode()
        try:
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(data)),
                **fault.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if fault.cut:
                data, self.close_connection = data[: len(data) // 2], True
            size = 1 if fault.drip else len(data)
            for start in range(0, len(data), max(1, size)):
                self.wfile.write(data[start : start + size])
                time.sleep(fault.drip)
        except OSError:  # the client has gone
            self.close_connection = True


def _error(message: str) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def main() -> None:
    """Serves a policy directory until it is interrupted."""
    from gru_mem_jax.agent.gru_mem_agent import GRUMemAgent
    from gru_mem_jax.policy.agent_settings import policy_settings
    from gru_mem_jax.policy.files import open_policy_dir

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, metavar="DIR")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--window", type=int, help="default what the agent needs")
    args = parser.parse_args()
    budgets = {}
    if args.window is not None:
        own = policy_settings(open_policy_dir(args.policy))
        budgets["prompt_tokens"] = args.window - own.completion_tokens
    agent = GRUMemAgent.from_pretrained(args.policy, slots=args.slots, **budgets)
    window = agent.config.prompt_tokens + agent.config.completion_tokens
    with CompletionServer(
        agent.generator, agent.encoder, window=window, port=args.port
    ) as server:
        print(f"serving {args.policy} as {server.model} at {server.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
