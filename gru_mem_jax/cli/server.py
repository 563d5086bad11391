"""--server: a policy that an OpenAI-compatible server holds, and no engine here."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gru_mem_jax import durable_files
from gru_mem_jax.agent.config import AgentConfig, longest_turn
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.cli import arguments
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.readers import SHOW_TEXT, Reader, Warm, agents_in
from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.asking import Asking
    from gru_mem_jax.evaluation.questions import DrawnSet
    from gru_mem_jax.sampling import RemoteConfig, RemoteGenerator

SEND = ("auto", "ids", "text")
_FLAGS = ("model", "tokenizer", "send")


def add_server_flags(add: Callable[..., object]) -> None:
    """Adds the flags that name a server, by a parser's or a group's `add_argument`."""
    add(
        "--server",
        metavar="URL",
        help="ask an OpenAI-compatible server, such as http://localhost:8000, and load "
        "no weights (docs/servers.md); its key is read from OPENAI_API_KEY",
    )
    add(
        "--model", metavar="NAME", help="name of the served model; default the only one"
    )
    add(
        "--tokenizer",
        type=arguments.path,
        metavar="DIR",
        help="directory with the served model's tokenizer; default --policy, which "
        "else gives the settings alone (gru_mem.json)",
    )
    add(
        "--send",
        choices=SEND,
        help="prompts as token ids, or as text of chat messages; default auto: ids "
        "where the server takes them",
    )


def served(args: argparse.Namespace, policies: Sequence[str]) -> "Served | None":
    """What the flags say; None: nothing of a server.

    Args:
      args: with the flags of `add_server_flags` and `arguments.add_host_flags`.
      policies: directories that are named otherwise.

    Raises:
      InputError: flags do not go together.
    """
    if args.server is None:
        for name in _FLAGS:
            if getattr(args, name) is not None:
                raise InputError(f"--{name} needs --server URL")
        return None
    if len(policies) > 1:
        raise InputError("--server: one policy is served; give --policy at most once")
    if not policies and args.tokenizer is None:
        raise InputError(
            "--server needs the served model's tokenizer: --tokenizer DIR, or --policy "
            "DIR, which also has the settings of its training"
        )
    if arguments.check_host_flags(args):
        raise InputError(
            "--server: one process asks it; leave out the flags of several"
        )
    return Served(
        url=args.server,
        model=args.model,
        settings=policies[0] if policies else args.tokenizer,
        tokenizer=args.tokenizer or policies[0],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A policy of a server.

    Attributes:
      url, model: as `RemoteGenerator` takes them.
      settings: directory that may have gru_mem.json.
      tokenizer: directory with the tokenizer.
    """

    url: str
    model: str | None
    settings: str
    tokenizer: str

    @property
    def name(self) -> str:
        """Of the policy, in tables."""
        return self.model or "served"

    @property
    def where(self) -> str:
        """Model and URL, for reports."""
        return f"{self.name} at {self.url}"

    def reader(self, remote: "RemoteConfig") -> Callable[[str, AgentConfig], Reader]:
        """What makes it a `Reader`, as `evaluation.evaluate` takes it."""
        return lambda _, config: ServedReader(self, remote, config)


class ServedReader:
    """A policy that a server holds; its tokenizer is here."""

    def __init__(self, served: Served, remote: "RemoteConfig", config: AgentConfig):
        from gru_mem_jax.policy.files import open_policy_dir
        from gru_mem_jax.sampling.remote_server import SERVED_FREELY
        from gru_mem_jax.tokenization import TextTokenizer

        if config.format == "constrained":
            raise InputError(f"--server: {SERVED_FREELY}")
        self._served, self._remote = served, remote
        self._folder = open_policy_dir(served.tokenizer).root
        encoder = TextTokenizer.from_pretrained(self._folder)
        self.builder = PromptBuilder(encoder, config.prompt)

    def facts(self) -> dict[str, str]:
        """What its results depend on, as far as it is known here.

        The URL is not among these: a server may be started again elsewhere.
        """
        return {
            "model": self._served.name,
            "send": self._remote.send,
            "tokenizer": durable_files.sha256(self._folder / "tokenizer.json"),
        }

    def warm(
        self,
        config: AgentConfig,
        engine_config: EngineConfig,
        drawn: "Sequence[DrawnSet]",
        asking: "Asking",
        cache_bytes: int | None,
        note: Callable[[str], None],
    ) -> Warm:
        """A generator on the server, once that has answered.

        Raises:
          InputError, RunError: as `RemoteGenerator`; a turn may not fit the window, or
            that is not known and a baseline is to fill it.
        """
        agents = agents_in(self.builder, config, asking.modes)
        generator = remote_generator(self._served, self.builder, self._remote, note)
        most = max(longest_turn(self.builder, agent) for agent in agents)
        if generator.window is not None and most > generator.window:
            raise InputError(
                f"--server: a turn may take {most} tokens, and the window of "
                f"{generator.name} is {generator.window}; lower a budget of "
                "AgentConfig, such as chunk_size"
            )
        if asking.window and generator.window and asking.window > generator.window:
            raise InputError(
                f"--window: {generator.name} takes {generator.window} tokens, fewer "
                f"than {asking.window}"
            )
        window = asking.window or generator.window
        if window is None and set(asking.modes) & SHOW_TEXT:
            raise InputError(
                f"--window: {generator.name} does not tell how many tokens it takes, "
                "which whole_text and bm25 fill; say so"
            )
        return Warm(
            generator=generator,
            window=window,
            forget_documents=lambda: None,
            forget=lambda: None,
        )


def remote_generator(
    served: Served,
    builder: PromptBuilder,
    remote: "RemoteConfig",
    note: Callable[[str], None],
) -> "RemoteGenerator":
    """A generator on the server; `note` gets a line that says how prompts are sent.

    Raises:
      InputError, RunError: as `RemoteGenerator`.
    """
    from gru_mem_jax.sampling import RemoteGenerator

    generator = RemoteGenerator(served.url, served.model, builder, remote)
    form = "token ids" if generator.takes_ids else "text, control strings neutralised"
    note(f"{generator.name}: prompts are sent as {form}")
    return generator
