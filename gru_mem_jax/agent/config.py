"""The agent's configuration and its JSON form.

A policy directory may hold `gru_mem.json`, the settings that its policy was trained
with (prompt style and order, chunk size, budgets, ...): any part of AgentConfig.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from gru_mem_jax.agent.prompts import (
    PROMPT_KINDS,
    PromptBuilder,
    PromptConfig,
    PromptKind,
)
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    did_you_mean,
    from_record,
    plain_numbers,
    shown,
    to_record,
)

SETTINGS_FILE = "gru_mem.json"
Mode = Literal["with_exit_gate", "without_exit_gate", "memagent", "reread", "parallel"]
Format = Literal["free", "constrained"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Those of the paper; what is evaluated where nothing is said.
PAPER_MODES: tuple[Mode, ...] = ("with_exit_gate", "without_exit_gate", "memagent")
FORMATS: tuple[Format, ...] = ("free", "constrained")

# Those that may read a text in several passes. The update gate leads them.
MODES_IN_PASSES: tuple[Mode, ...] = ("reread", "parallel")

_KEPT_TOKENS = 256  # of a chunk whose keys are kept for the next pass, at least

_BUDGETS = (
    "chunk_size",
    "question_tokens",
    "memory_tokens",
    "completion_tokens",
    "prompt_tokens",
)

_OF_THE_FORM = ("thought_tokens", "update_threshold", "exit_threshold")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How a context is read. The budgets' defaults are the paper's.

    Attributes:
      mode: "with_exit_gate" stops reading when the policy says so;
        "without_exit_gate" reads to the end (for tasks that need the whole text);
        "memagent" is the ungated baseline: each completion is the new memory;
        "reread" reads to the end, and again until a pass changes nothing; "parallel"
        reads all chunks at once and merges those whose gate is open, until a pass
        changes nothing (`agent.reading`).
      chunk_size: tokens of a chunk.
      question_tokens: most tokens of a question; a longer one is an error.
      memory_tokens: most tokens of a memory; a longer one is cut.
      completion_tokens: most tokens of a completion, stop token included.
      prompt_tokens: most tokens of a prompt, template included.
      prompt: layout and wording of the prompts.
      format: "free" samples whole turns, which may be malformed; "constrained" forces
        the form of a turn token by token, so that the policy writes thoughts and
        memories and decides gates, and nothing else.
      thought_tokens: most tokens of a constrained turn's thought; None: a quarter of
        what completion_tokens leaves beside the form.
      update_threshold, exit_threshold: a gate of a constrained turn opens if its
        probability is at least so much; None: it is drawn as other tokens are.
      max_passes: of modes reread and parallel: most passes over the text.
      scan_chunks: of mode parallel: scan and merge so many chunks, then the next ones,
        each time against the memory as it stands: for texts of which no end is known.
        None: all of the text at once.
      max_merged: of mode parallel: of the chunks of a scan whose gate is open, merge so
        many, those with the highest P(yes), which constrained turns have; None: all.
      merge_until_exit: of mode parallel: end reading with the first merged turn whose
        exit gate is open.
      max_chunks: stop reading after so many, and answer.
      deadline_seconds: stop reading when so much time has passed, and answer; checked
        between turns and while waiting for the context.
      prefill_ahead: so many of the next chunks are prefilled with each chunk, where
        prompts are chunk_first and the next chunks are known without waiting. It saves
        time where the text is read to its end; after an exit they were in vain.
      sampling: how tokens are drawn.
    """

    mode: Mode = "with_exit_gate"
    chunk_size: int = 5000
    question_tokens: int = 1024
    memory_tokens: int = 1024
    completion_tokens: int = 1024
    prompt_tokens: int = 8192
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    format: Format = "free"
    thought_tokens: int | None = None
    update_threshold: float | None = None
    exit_threshold: float | None = None
    max_passes: int = 3
    scan_chunks: int | None = None
    max_merged: int | None = None
    merge_until_exit: bool = False
    max_chunks: int | None = None
    deadline_seconds: float | None = None
    prefill_ahead: int = 0
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("mode", self.mode, MODES)
        for name in _BUDGETS:
            check_int(name, getattr(self, name), 1, 1 << 31)
        check_choice("format", self.format, FORMATS)
        if self.thought_tokens is not None:
            check_int("thought_tokens", self.thought_tokens, 1, 1 << 31)
        for name in ("update_threshold", "exit_threshold"):
            if (threshold := getattr(self, name)) is not None:
                check_number(name, threshold, 0, 1)
        for name in _OF_THE_FORM:
            if self.format == "free" and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is of constrained turns, and format is free: set format "
                    f"to constrained, or {name} to None"
                )
        check_int("max_passes", self.max_passes, 1, 1 << 16)
        for name in ("scan_chunks", "max_merged", "max_chunks"):
            if (value := getattr(self, name)) is not None:
                check_int(name, value, 1)
        if self.max_merged is not None and self.format == "free":
            raise InputError(
                "max_merged takes the chunks with the highest P(yes), and only "
                "constrained turns tell it: set format to constrained, or max_merged "
                "to None"
            )
        check_bool("merge_until_exit", self.merge_until_exit)
        if self.deadline_seconds is not None:
            check_number("deadline_seconds", self.deadline_seconds, 0, 1e9)
        check_int("prefill_ahead", self.prefill_ahead, 0, 1 << 16)
        for name, cls in (("prompt", PromptConfig), ("sampling", SamplingConfig)):
            if not isinstance(getattr(self, name), cls):
                raise InputError(
                    f"{name} must be a {cls.__name__}, got {shown(getattr(self, name))}"
                )

    @property
    def chunk_first(self) -> bool:
        """Whether prompts begin with the chunk, so that questions can share it."""
        return self.prompt.order == "chunk_first"

    @property
    def reads_ahead(self) -> bool:
        """Whether requests name the chunks to come."""
        return self.chunk_first and self.prefill_ahead > 0

    @property
    def keeps_chunks(self) -> bool:
        """Whether a chunk may be read again, so that its keys are worth keeping.

        Passes read chunks again, and so do merges. Prompts must be chunk_first. Short
        chunks are computed as soon as they are fetched.
        """
        again = self.mode == "parallel" or (
            self.mode == "reread" and self.max_passes > 1
        )
        return again and self.chunk_first and self.chunk_size >= _KEPT_TOKENS

    @property
    def memory_kind(self) -> PromptKind:
        """The kind of the memory turns' prompts."""
        return "memagent" if self.mode == "memagent" else "gated"


def check_taught(own: AgentConfig, modes: Iterable[str]) -> None:
    """Checks that a policy has the gates that modes rest on.

    Args:
      own: the policy's own settings.
      modes: of the agent, or others.

    Raises:
      InputError: a mode is led by the gates, and the policy's own mode has none.
    """
    for mode in modes if own.mode == "memagent" else ():
        if mode in MODES_IN_PASSES:
            raise InputError(
                f"mode {mode}: MemAgent has no gate to scan with, and by its settings "
                "(mode memagent) this policy was never taught one; ask it in mode "
                "memagent, or take a policy with gates"
            )


def check_budgets(builder: PromptBuilder, config: AgentConfig) -> None:
    """Checks that prompts and constrained turns fit their budgets.

    Raises:
      InputError: a prompt of full budgets would not fit prompt_tokens, or the form of
        a turn completion_tokens.
      PolicyError: the tokenizer cannot hold turns to a form.
    """
    kind = config.memory_kind
    memory = max(config.memory_tokens, builder.no_memory_tokens())
    inserted = config.question_tokens + memory
    chunks: dict[PromptKind, int] = {kind: config.chunk_size, "answer": 0}
    for prompt, chunk in chunks.items():
        overhead = builder.overhead_tokens(prompt)
        if overhead + inserted + chunk > config.prompt_tokens:
            raise InputError(
                f"prompt_tokens is {config.prompt_tokens}, but the {prompt} prompt may "
                f"need {overhead + inserted + chunk}: template {overhead}, question "
                f"{config.question_tokens}, memory {memory}, chunk {chunk}; lower a "
                f"budget or raise prompt_tokens"
            )
        turn_constraint(builder, config, prompt)


def longest_turn(builder: PromptBuilder, config: AgentConfig) -> int:
    """Tokens of the longest prompt and completion within the budgets."""
    memory = max(config.memory_tokens, builder.no_memory_tokens())
    prompts = (
        builder.overhead_tokens(config.memory_kind) + config.chunk_size,
        builder.overhead_tokens("answer"),
    )
    content = config.question_tokens + memory + config.completion_tokens
    return max(prompts) + content


def trunk_and_tail(builder: PromptBuilder, config: AgentConfig) -> tuple[int, int]:
    """Most tokens of a chunk_first turn through its question, and of all behind it.

    The completion is behind it. The template is counted in both, in any mode.
    """
    overhead = max(map(builder.overhead_tokens, PROMPT_KINDS))
    memory = max(config.memory_tokens, builder.no_memory_tokens())
    trunk = overhead + config.chunk_size + config.question_tokens
    return trunk, overhead + memory + config.completion_tokens


def config_to_dict(config: AgentConfig) -> dict[str, Any]:
    """An agent configuration as JSON values."""
    return to_record(config)


def config_from_dict(record: object, where: str = SETTINGS_FILE) -> AgentConfig:
    """An agent configuration from JSON values; what is absent has its default.

    Raises:
      InputError: unknown name, wrong type or value out of range, with its place.
    """
    try:
        return from_record(AgentConfig, record, where)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from None


def config_from_json(text: str, where: str = SETTINGS_FILE) -> AgentConfig:
    """An agent configuration from the text of a JSON file.

    Raises:
      InputError: it is not JSON, or as `config_from_dict`.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    return config_from_dict(record, where)


def config_or_settings(given: object, own: AgentConfig) -> AgentConfig:
    """The configuration that a caller's `config` argument means.

    Args:
      given: an AgentConfig, taken as it is; None for `own`; or a mapping whose settings
        replace those of `own`, as in `replace_settings` or with a mapping for a part:
        {"chunk_size": 1000, "sampling": {"seed": 1}}.
      own: the policy's configuration, or the default one.

    Raises:
      InputError: `given` is of another kind, a setting does not exist, or a value is
        out of range.
    """
    if given is None:
        return own
    if isinstance(given, AgentConfig):
        return given
    if not isinstance(given, Mapping):
        raise InputError(
            f"config must be an AgentConfig or a dict of settings, got {shown(given)}"
        )
    if odd := [name for name in given if not isinstance(name, str)]:
        raise InputError(f"config has a key that is not a name: {shown(odd[0])}")
    settings: dict[str, Any] = {}
    whole = dict(given)
    for part in ("prompt", "sampling"):
        if isinstance(of_part := given.get(part), Mapping):
            known = [field.name for field in dataclasses.fields(getattr(own, part))]
            for name in of_part:
                if name not in known:
                    raise InputError(
                        f"config.{part} has an unknown setting {shown(name)}"
                        f"{did_you_mean(str(name), known)}"
                    )
            settings |= whole.pop(part)
    return replace_settings(own, **settings | whole)


def replace_settings(config: AgentConfig, **settings: Any) -> AgentConfig:
    """A copy with some settings changed, those of its parts by their own names.

    >>> replace_settings(AgentConfig(), chunk_size=1000, temperature=0)

    With format="free" what only constrained turns have, a thought's budget and
    thresholds, is dropped.

    Raises:
      InputError: unknown name, or a value out of range.
    """
    changes: dict[str, Any] = {}
    if settings.get("format") == "free":
        changes |= dict.fromkeys(_OF_THE_FORM)
    parts = {"prompt": PromptConfig, "sampling": SamplingConfig}
    homes = {f.name: p for p, cls in parts.items() for f in dataclasses.fields(cls)}
    known = {*homes, *(f.name for f in dataclasses.fields(AgentConfig))}
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"unknown setting {name!r}{did_you_mean(name, known)}")
        if name in homes:
            part = homes[name]
            old = changes.get(part, getattr(config, part))
            name, value = part, dataclasses.replace(old, **{name: value})
        changes[name] = value
    return dataclasses.replace(config, **changes)
