"""A model of an OpenAI-compatible server: what it takes, requests, their errors."""

import dataclasses
import json
import os
import types
import urllib.parse
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal

from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, Request, Segment, prompt_ids
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    cut,
    did_you_mean,
    plain_numbers,
)
from gru_mem_jax.sampling.remote_replies import Reading, ReplyError
from gru_mem_jax.sampling.remote_text import ChatText

KEY = "OPENAI_API_KEY"
# Of a server that has no such path, or takes no such prompt or field.
_NOT_TAKEN = (400, 404, 405, 422, 501)
_OF_THE_REQUEST = (400, 413, 422)  # it is the cause: others may well be answered
_START_SECONDS = 20.0
_CHECK_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
SERVED_FREELY = (
    "format constrained: a server is not asked to hold completions to a form; use "
    "format free"
)
TOO_LATE = "no answer within the time limit"
_PROBE = "Zwei Bücher, 12345 words?\n\tif x_1 == 'a': pass"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How a server is asked.

    Attributes:
      concurrency: requests under way at once.
      send: "ids" (token ids to /completions), "text" (messages to /chat/completions,
        with control strings neutralised), or "auto": ids if the server takes them.
      seconds: most of an attempt. All attempts of a request and the waits between them
        take at most 1 + max_retries times as long.
      max_retries: further attempts after a status of 408, 409, 429, 500 or above, a
        broken connection, or the time limit. The waits between them grow from 0.5 to
        8 s, or are what Retry-After says, up to two minutes.
      logprobs: whether to ask for those of sampled tokens, which traces show.
    """

    concurrency: int = 16
    send: Literal["auto", "ids", "text"] = "auto"
    seconds: float = 300.0
    max_retries: int = 4
    logprobs: bool = False

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_int("concurrency", self.concurrency, 1, 4096)
        check_choice("send", self.send, ("auto", "ids", "text"))
        check_number("seconds", self.seconds, 0.001, 1e6)
        check_int("max_retries", self.max_retries, 0, 1000)
        check_bool("logprobs", self.logprobs)


class RefusedError(Exception):
    """A request that the server did not complete; says why in one line.

    Attributes:
      status: of HTTP; None: there was no answer.
      of_the_server: whether other requests will probably fail too.
    """

    def __init__(
        self, reason: str, status: int | None = None, *, of_the_server: bool = True
    ):
        super().__init__(reason)
        self.status, self.of_the_server = status, of_the_server


class Server:
    """Asks one model; any number of threads may.

    Args:
      url: of the server, such as http://localhost:8000; /v1 is added where it has no
        path.
      model: its name there; None: the only one.
      builder: of the prompts, with the policy's tokenizer.
      config: how to ask.

    Attributes:
      url, model: as they are used.
      takes_ids: whether prompts are sent as token ids.
      window: tokens of a prompt and its completion, if the server tells it.

    Raises:
      InputError: the openai package is missing, the URL is none, the server has no such
        model, refuses the key, or has another tokenizer.
      RunError: it does not answer, or not as a server of this kind.
    """

    def __init__(
        self, url: str, model: str | None, builder: PromptBuilder, config: RemoteConfig
    ):
        self._openai = _library()
        self.url = _checked(url)
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(f"{KEY} holds characters that no key has")
        connect = min(_CONNECT_SECONDS, config.seconds)
        self._client = self._openai.OpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            timeout=self._openai.Timeout(config.seconds, connect=connect),
            max_retries=config.max_retries,
        )
        # Else the garbage collector may meet an open socket first, and warn.
        weakref.finalize(self, self._client.close)
        self.model, self.window = self._find(model)
        self._builder, self._config = builder, config
        self._chat = ChatText(builder.encoder)
        self._bare = False  # whether it refuses all fields that are not OpenAI's
        self.takes_ids = config.send != "text" and self._probe_ids()
        if not self.takes_ids:
            self._probe_chat()
        self._reading = Reading(
            encoder=builder.encoder,
            ids=self.takes_ids,
            logprobs=config.logprobs,
            opened=builder.opened,
        )

    def complete(self, body: Mapping[str, Any], request: Request) -> Completion:
        """Sends what `body` made of a request.

        Raises:
          RefusedError: there is no completion, after all attempts.
        """
        reply = self._send(body)
        try:
            return self._reading.completion(reply, request)
        except ReplyError as error:
            reason = self._safe(str(error))
            raise RefusedError(reason, 200, of_the_server=False) from None

    def check(self) -> None:
        """Asks for one token; raises RefusedError if it does not come."""
        seconds = min(_CHECK_SECONDS, self._config.seconds)
        self._send(
            self.body(self._one_token()), self._client.with_options(timeout=seconds)
        )

    def body(self, request: Request) -> dict[str, Any]:
        """A request as the server takes it.

        Raises:
          InputError: it cannot be sent.
        """
        if request.stop_strings:
            raise InputError("a server is not asked with stop strings; use stop ids")
        if request.constraint is not None:
            raise InputError(SERVED_FREELY)
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.temperature > 0:
            body["seed"] = request.seed
        # Told in full, since vLLM takes what is left out from generation_config.json.
        extra: dict[str, Any] = {
            "top_k": request.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(request.stop_ids),
            "skip_special_tokens": False,
            "return_token_ids": True,
        }
        if self.takes_ids:
            body["prompt"] = list(prompt_ids(request.prompt))
            if self._config.logprobs:
                body["logprobs"] = 0
        else:
            message = self._chat.message(request.prompt)
            body["messages"] = [{"role": "user", "content": message}]
            if self._config.logprobs:
                body["logprobs"] = True
            if variables := self._builder.config.template_variables:
                extra["chat_template_kwargs"] = dict(variables)
        if self._bare:
            body["max_completion_tokens"] = body.pop("max_tokens")
        else:
            body["extra_body"] = extra
        return body

    # -- the start --------------------------------------------------------------------

    def _find(self, model: str | None) -> tuple[str, int | None]:
        """The model's name, and its window if that is told."""
        once = self._client.with_options(timeout=_START_SECONDS, max_retries=1)
        try:
            listed = self._json(once.models.with_raw_response.list)
        except RefusedError as error:
            if error.status in (404, 405, 501) and model is not None:
                return model, None  # a server that does not tell
            raise self._at_start(error) from None
        rows = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(rows, list):
            shown = self._safe(repr(listed))
            raise self._at_start(RefusedError(f"its list of models is {shown}", 200))
        windows = {
            row["id"]: row.get("max_model_len")
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("id"), str)
        }
        if model is None and len(windows) == 1:
            model = next(iter(windows))
        if model is None or model not in windows:
            serves = self._safe(", ".join(windows)) or "none"
            hint = "" if model is None else did_you_mean(model, windows)
            what = "several models" if model is None else f"no model {model!r}{hint}"
            raise InputError(f"{self.url} serves {what}; name one of: {serves}")
        window = windows[model]
        return model, window if type(window) is int and window > 0 else None

    def _probe_ids(self) -> bool:
        """Whether prompts of token ids are taken."""
        encoder = self._builder.encoder
        request = self._one_token()
        self.takes_ids = True
        try:
            reply = self._send(self.body(request))
            Reading(encoder=encoder, ids=True).completion(reply, request)
        except (RefusedError, ReplyError) as error:
            if isinstance(error, RefusedError) and error.status not in _NOT_TAKEN:
                raise self._at_start(error) from None
            if self._config.send == "ids":
                raise InputError(
                    f"{self.url} takes no prompts of token ids for {self.model} "
                    f"({self._safe(str(error))}); send text instead"
                ) from None
            return False
        if reply["choices"][0].get("token_ids") is not None:
            self._check_tokenizer(self.body(request))
        return True

    def _check_tokenizer(self, body: dict[str, Any]) -> None:
        """Refuses another tokenizer, where the server tells the ids of a text."""
        own = body["prompt"]
        body["prompt"] = _PROBE
        body["extra_body"]["add_special_tokens"] = False
        try:
            reply = self._send(body)
            theirs = reply["choices"][0]["prompt_token_ids"]
        except (RefusedError, KeyError, IndexError, TypeError, AttributeError):
            return
        if isinstance(theirs, list) and theirs != own:
            raise InputError(
                f"{self.url}: {self.model} has another tokenizer than the policy's: "
                f"{_PROBE[:12]!r}... is {cut(str(theirs), 40)} there and "
                f"{cut(str(own), 40)} here; name the tokenizer of the served model"
            )

    def _probe_chat(self) -> None:
        """Whether fields beside OpenAI's are taken; raises if there is no chat."""
        request = self._one_token()
        try:
            self._send(self.body(request))
        except RefusedError as error:
            if error.status not in (400, 422):
                raise self._at_start(error) from None
            self._bare = True
            try:
                self._send(self.body(request))
            except RefusedError as again:
                raise self._at_start(again) from None

    def _one_token(self) -> Request:
        """A small request, to see whether it is completed."""
        encoder = self._builder.encoder
        ids = tuple(encoder.encode_control(_PROBE, start=True))
        return Request(
            prompt=(Segment("control", ids, _PROBE),),
            max_new_tokens=1,
            stop_ids=encoder.stop_ids,
            temperature=0.0,
        )

    def _at_start(self, error: Exception) -> InputError | RunError:
        status = getattr(error, "status", None)
        if status in (401, 403) and not self._key:
            return InputError(f"{self.url} wants a key ({error}); set {KEY}")
        if status in (401, 403):
            return InputError(f"{self.url} does not accept the key in {KEY} ({error})")
        what = {None: "does not answer", 200: "is no OpenAI-compatible server"}.get(
            status, "cannot be asked"
        )
        return RunError(
            f"{self.url} {what} ({error}); start the server, or correct the URL"
        )

    # -- a request --------------------------------------------------------------------

    def _send(self, body: Mapping[str, Any], client: Any = None) -> Any:
        """The reply, as JSON values; raises RefusedError."""
        client = client or self._client
        path = client.chat.completions if "messages" in body else client.completions
        return self._json(lambda: path.with_raw_response.create(**body))

    def _json(self, ask: Callable[[], Any]) -> Any:
        try:
            text = ask().text
        except self._openai.APIStatusError as error:
            told = _told(error.body) or error.response.text
            status = error.status_code
            raise RefusedError(
                f"status {status}: {self._safe(told) or 'no reason'}",
                status,
                of_the_server=status not in _OF_THE_REQUEST,
            ) from None
        except self._openai.APITimeoutError:
            raise RefusedError(TOO_LATE) from None
        except self._openai.APIConnectionError as error:
            why = error.__cause__ or error
            reason = f"connection failed: {self._safe(str(why)) or type(why).__name__}"
            raise RefusedError(reason) from None
        except self._openai.OpenAIError as error:
            raise RefusedError(self._safe(str(error))) from None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            reason = f"the reply is no JSON: {self._safe(text) or 'it is empty'}"
            raise RefusedError(reason, 200) from None

    def _safe(self, text: str) -> str:
        """Some of a server's words in one line, without the key."""
        if self._key:
            text = text.replace(self._key, f"<{KEY}>")
        return cut(" ".join(text[:2000].split()), 160)


def _library() -> types.ModuleType:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            f"a server is asked by the openai package ({error}): pip install "
            "'gru_mem_jax[server]'"
        ) from None
    return openai


def _checked(url: str) -> str:
    """The base URL of the API; raises InputError."""
    try:
        parts = urllib.parse.urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises if it is none
    except ValueError:
        ok = False
    if not ok or parts.query or parts.fragment:
        raise InputError(
            f"a server's URL must be like http://localhost:8000/v1, got {url!r:.80}"
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"a server's URL must hold no user or key; put the key into {KEY}"
        )
    path = parts.path.rstrip("/") or "/v1"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _told(body: object) -> str:
    """The message in the body of an error, in its usual places."""
    if not isinstance(body, dict):
        return ""
    for name in ("message", "error", "detail"):
        if isinstance(told := body.get(name), dict):
            return _told(told)
        if told:
            return str(told)
    return ""
