"""Runs the launch scripts, and reads what their dry runs print."""

import os
import pathlib
import shlex
import stat
import subprocess
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# What the scripts may use besides bash: no gcloud, no kubectl, no Slurm, no Python.
_TOOLS = """
basename cat chmod cp cut date dirname env grep head id mkdir mktemp printf rm sed seq
sleep sort stat tail touch tr true
"""
TOOLS = _TOOLS.split()

_IMAGE = "--image us-docker.pkg.dev/mine/r/gru-mem:1 --run_dir gs://b/q7"
WORDS = {
    "gke.sh": "--name q7 --topology v5p:4x4x4 --cluster big --project mine "
    f"--location us-east5-a {_IMAGE}",
    "compute_engine.sh": "--name q7 --topology v6e:8x8 --project mine "
    f"--zone us-east5-b {_IMAGE}",
    "queued_resources.sh": "--name q7 --topology v5e:16x16 --project mine "
    f"--zone us-west4-a {_IMAGE}",
    "slurm.sh": "--name q7 --nodes 2 --gpus 8 --run_dir /shared/q7",
}
SCRIPTS = sorted(WORDS)
TRAIN = ["train", "--gin_file=gin/experiments/paper_7b.gin"]

# Words that a shell, JSON, YAML or Kubernetes would change if they were not quoted.
HARD = [
    "train",
    "--gin.POLICY='/data/a b'",
    '--gin.TEXT="it\'s \\"so\\" \\\\ "',
    "--gin.SHELL=$HOME $(id) `id` ; a | b & c > d * ? [x] {y,z} ~ # !",
    "--gin.KUBERNETES=$(HOSTNAME) $$(HOSTNAME) $",
    "--gin.LINES=one\ntwo\tthree",
    "--gin.YAML=- a: {b}, yes",
    "--gin.OTHER=ä 字",
    "--gin.EMPTY=",
]


class Command(NamedTuple):
    """A command that a dry run prints, and its standard input, if any."""

    words: list[str]
    text: str | None = None

    def flag(self, name: str) -> str:
        """The value of --NAME, given with `=` or as the next word."""
        for word, following in zip(self.words, [*self.words[1:], ""]):
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
            if word == name:
                return following
        raise AssertionError(f"{name} is not in {self.words}")


def launch(script, *words, env=None, path=None, check=True):
    """Runs a launch script."""
    environment = {"PATH": str(path or os.environ["PATH"]), "HOME": "/nowhere"}
    done = subprocess.run(
        ["bash", str(LAUNCH / script), *words],
        env=environment | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def start_words(script, *more, words=TRAIN):
    """Words that start a run with a script, and print what it would do."""
    return [*WORDS[script].split(), *more, "--dry-run", "--", *words]


def dry_run(script, *more, words=TRAIN, **options):
    """The commands of a dry run; files that it would write are commands `cat`."""
    return commands(launch(script, *start_words(script, *more, words=words), **options))


def commands(done):
    found, lines = [], iter(done.stdout.splitlines())
    for line in lines:
        if not line.endswith("<<'END'"):
            found.append(Command(shlex.split(line)))
            continue
        text = []
        for inner in lines:
            if inner == "END":
                break
            text.append(inner)
        words = shlex.split(line.removesuffix("<<'END'"))
        found.append(Command(words, "\n".join(text) + "\n"))
    return found


def of(found, *start):
    """The one command among them that begins with these words."""
    [command] = [c for c in found if tuple(c.words[: len(start)]) == start]
    return command


def file_text(found, name):
    """What a file holds that a dry run would write."""
    return of(found, "cat", f">{name}").text


def program(folder, name, text):
    """Makes an executable."""
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def recorder(folder, name, then=""):
    """An executable that records its words, each ended by NUL, in NAME.words."""
    file = shlex.quote(f"{folder}/{name}.words")
    record = f"{{ printf '%s\\0' \"$@\"; printf '\\0'; }} >>{file}"
    return program(folder, name, f"#!/bin/bash\n{record}\n{then}\n")


def recorded(folder, name):
    """The calls that a recorder has seen, a list of words each."""
    path = folder / f"{name}.words"
    if not path.exists():
        return []
    return [call.split("\0") for call in path.read_text().split("\0\0")[:-1]]
