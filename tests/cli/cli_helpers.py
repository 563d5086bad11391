"""Runs `gru-mem` as a user does: in a process of its own."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import scripted_ask

from gru_mem_jax.cli.main import main

# A test runner in the background may have SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCRIPTED = pathlib.Path(__file__).with_name("scripted_ask.py")


def environment(**changes: str | None) -> dict[str, str]:
    """The environment without what tests set for JAX; None removes a variable."""
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NO_COLOR")}
    env |= {"JAX_PLATFORMS": "cpu"}
    for name, value in changes.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


@dataclasses.dataclass(kw_only=True)
class Ask:
    """A command line that asks the scripted policy."""

    folder: pathlib.Path
    context: str
    interpreter: tuple[str, ...] = (sys.executable,)

    @property
    def json_path(self) -> pathlib.Path:
        return self.folder / "out.json"

    @property
    def json(self) -> dict:
        return json.loads(self.json_path.read_text(encoding="utf-8"))

    def command(self, *more: str, context: str | None = None) -> list[str]:
        if context is None:
            context = str(self.folder / "context.txt")
            pathlib.Path(context).write_text(self.context, encoding="utf-8")
        return [
            *self.interpreter,
            str(SCRIPTED),
            "ask",
            f"--policy={self.folder / 'policy'}",
            "--question=Which keys are there?",
            f"--context={context}",
            *more,
        ]

    def start(self, *more, context=None, env=None, **kwargs) -> subprocess.Popen:
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
        return subprocess.Popen(
            self.command(*more, context=context),
            env=environment(**(env or {})),
            **kwargs,
        )

    def run_here(self, *more: str, context: str | None = None) -> int:
        """The exit status of the same command, run in this process: quicker."""
        with scripted_ask.replaced():
            words = self.command(*more, context=context)
            return main(words[words.index("ask") :])

    def run(self, *more, input=None, timeout=60, **kwargs):
        """(exit status, stdout, stderr)."""
        if input is not None:
            kwargs["stdin"] = subprocess.PIPE
        process = self.start(*more, **kwargs)
        out, err = process.communicate(input, timeout=timeout)
        text = [(b or b"").decode("utf-8") for b in (out, err)]
        return process.returncode, *text


FILLER = "nothing of interest is said in this sentence, nor in the next. "


def context_of(chunks: int, **marks: str) -> str:
    """Text of `chunks` chunks of 100 bytes; marks by chunk: c3="KEYalpha"."""
    parts = []
    for i in range(chunks):
        text = marks.get(f"c{i}", "") + " " + FILLER * 2
        parts.append(text[:100])
    return "".join(parts)


def without_times(document: dict) -> dict:
    """A trajectory without what differs from run to run."""
    turns = [{k: v for k, v in t.items() if k != "seconds"} for t in document["turns"]]
    return {**document, "turns": turns, "seconds": None}


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def turns_in(path) -> int:
    return len(json.loads(path.read_text())["turns"]) if path.exists() else 0


# Of a policy that reads chunks of some sentences.
SMALL_SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 32,
    "completion_tokens": 24,
    "prompt_tokens": 256,
    "prompt": {"style": "compact", "order": "chunk_first"},
}


def random_policy(folder: pathlib.Path, settings: dict, **shape: int) -> pathlib.Path:
    """A Qwen2-shaped policy with the word tokenizer, as a Hugging Face directory.

    `shape` replaces fields of its PolicyConfig.
    """
    import jax

    from gru_mem_jax.agent.config import config_from_dict
    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf_export import export_policy
    from gru_mem_jax.tiny import tokenizer as word_tokenizer

    files = folder / "tokenizer"
    files.mkdir()
    names = word_tokenizer.save(files)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    vocab = word_tokenizer.build().get_vocab_size()
    config = PolicyConfig(
        vocab_size=vocab, max_position_embeddings=1024, **small | shape
    )
    made = make_policy(config)
    export_policy(
        made,
        made.init(jax.random.key(0)),
        folder / "policy",
        tokenizer_files=[files / name for name in names],
        agent_settings=config_from_dict(settings),
    )
    return folder / "policy"
