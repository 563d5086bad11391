"""A recipe of a few texts, and a process that builds it and is killed on the way.

    python small_recipe.py OUT [ASKED ...]

builds it into OUT, in a fork for each number, which is killed when it has asked the
recipe for so many texts and questions; without a number to the end.
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys

from gru_mem_jax.data import open_dataset
from gru_mem_jax.data.builders import Length, StoredQuestion, build

LENGTHS = (Length("documents", 2), Length("documents", 5))
SHARD_BYTES = 300  # a few records


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallRecipe:
    """Question q is on the texts q, q + 1, ...; its evidence is in text q."""

    name = "small"

    lengths: tuple[Length, ...] = LENGTHS
    num_texts: int = 20
    num_questions: int = 4
    seed: int = 0
    kill_after: int | None = None

    def settings(self):
        return {"seed": self.seed, "num_texts": self.num_texts}

    def pool(self):
        for index in range(self.num_texts):
            self._asked()
            yield f"Text {index} ü says that key{index} is value{index}."

    def questions(self, length):
        for number in range(self.num_questions):
            self._asked()
            yield StoredQuestion(
                id=f"q{number}",
                question=f"What is key{number}?",
                answers=(f"value{number}", "another"),
                pieces=[number + i for i in range(length.count)],
                glue="numbered",
                evidence=((31, 45),),
                evidence_order=(0,),
                task="small",
                scoring="part",
                metadata={"number": number, "kind": "ü"},
            )

    def _asked(self):
        asked[0] += 1
        if asked[0] == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


asked = [0]


def build_and_kill(out, kill_after):
    """Builds in a fork that is killed; tells the files that it leaves behind."""
    if not (child := os.fork()):
        build(SmallRecipe(kill_after=kill_after), out, shard_bytes=SHARD_BYTES)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    files = pathlib.Path(out).parent.rglob("*")
    left = {str(f): f.stat().st_mtime_ns for f in files if f.is_file()}
    print(json.dumps({"status": status, "left": left}))


if __name__ == "__main__":
    for number in sys.argv[2:]:
        build_and_kill(sys.argv[1], int(number))
    if not sys.argv[2:]:
        build(SmallRecipe(), sys.argv[1], shard_bytes=SHARD_BYTES)
        example = open_dataset(sys.argv[1], "2 documents")[0]
        loaded = {"tensorflow", "jax"} & set(sys.modules)
        print(json.dumps([example.id, *sorted(loaded)]))
