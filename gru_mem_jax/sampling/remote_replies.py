"""What an OpenAI-compatible server replies, as completions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import TAGS
from gru_mem_jax.agent.requests import Completion, Request, prompt_ids


class ReplyError(Exception):
    """A reply that is no completion of its request; says why in a few words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How replies are read.

    Attributes:
      encoder: the policy's tokenizer.
      ids: whether token ids were sent, so that the server must have counted as many.
      logprobs: whether they were asked for.
      opened: the beginning of a reply that the chat template writes, see PromptBuilder.
    """

    encoder: Encoder
    ids: bool
    logprobs: bool = False
    opened: str = ""

    def completion(self, reply: Any, request: Request) -> Completion:
        """The completion in a reply of /completions or /chat/completions.

        Its ids are the server's where it tells them. Else they are those of the text,
        in which control strings are recognised, and the stop id, which servers leave
        out.

        Raises:
          ReplyError: it has none, or not one of this request.
        """
        choice = _first_choice(reply)
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise ReplyError(f"the completion ended by {_brief(reason)}")
        usage = _mapping(reply.get("usage"))
        sent = prompt_ids(request.prompt)
        prompt = len(sent)
        theirs = choice.get("prompt_token_ids")
        if self.ids and isinstance(theirs, list) and tuple(theirs) != sent:
            raise ReplyError("the reply is to another prompt")
        read = usage.get("prompt_tokens")
        if self.ids and _is_count(read) and read != prompt:
            raise ReplyError(f"the server read {read} of the prompt's {prompt} tokens")
        told = choice.get("token_ids")
        ids = self._ids(told, choice)
        # Of a text's ids there may be more than were sampled.
        sampled = len(ids) if told is not None else usage.get("completion_tokens")
        if _is_count(sampled) and sampled > request.max_new_tokens:
            raise ReplyError(
                f"the server sent {sampled} tokens, and the budget is "
                f"{request.max_new_tokens}"
            )
        logprobs: tuple[float, ...] = ()
        if self.logprobs and told is not None:
            logprobs = _logprobs(choice, len(ids))
        if reason == "stop" and ids[-1:] not in [(i,) for i in request.stop_ids]:
            ids, logprobs = (*ids, request.stop_ids[0]), ()
        plain = (request.temperature, request.top_k, request.top_p) == (1.0, 0, 1.0)
        drawn = (0.0,) * len(ids) if request.temperature == 0 else ()
        shared = _mapping(usage.get("prompt_tokens_details")).get("cached_tokens")
        return Completion(
            ids=ids,
            logprobs=logprobs,
            sampling_logprobs=logprobs if plain else drawn,
            finish_reason=reason,
            shared_prompt_tokens=min(shared, prompt) if _is_count(shared) else 0,
        )

    def _ids(self, told: Any, choice: Mapping[str, Any]) -> tuple[int, ...]:
        if told is not None:
            if not isinstance(told, list) or not all(map(_is_count, told)):
                raise ReplyError(f"token_ids are {_brief(told)}")
            return tuple(told)
        text = self._text(choice)
        # A lone surrogate, which JSON can hold, has no encoding.
        text = text.encode("utf-8", "replace").decode()
        return tuple(self.encoder.encode_control(text))

    def _text(self, choice: Mapping[str, Any]) -> str:
        if "message" not in choice:
            if isinstance(text := choice.get("text"), str):
                return text
            raise ReplyError("the choice has no text")
        message = _mapping(choice["message"])
        text = message.get("content")
        # Servers with a parser of reasoning give the thought apart from the rest.
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str) and thought:
            start, end = TAGS[:2]
            rest = text if isinstance(text, str) else ""
            return f"{'' if self.opened else start}{thought}{end}{rest}"
        if not isinstance(text, str):
            raise ReplyError("the message has no content")
        return text


def _first_choice(reply: Any) -> Mapping[str, Any]:
    choices = _mapping(reply).get("choices")
    if not isinstance(choices, list) or not choices or not _mapping(choices[0]):
        raise ReplyError(f"the reply has no choices: {_brief(reply)}")
    return _mapping(choices[0])


def _logprobs(choice: Mapping[str, Any], count: int) -> tuple[float, ...]:
    """Those of a choice's tokens, in either form; none if there is none."""
    told = _mapping(choice.get("logprobs"))
    values = told.get("token_logprobs")
    if values is None and isinstance(content := told.get("content"), list):
        values = [_mapping(token).get("logprob") for token in content]
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) != count:
        raise ReplyError(f"there are not {count} logprobs, one for each token")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ReplyError(f"a logprob is {_brief(value)}")
    return tuple(map(float, values))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _brief(value: Any) -> str:
    return " ".join(f"{value!r:.80}".split())
