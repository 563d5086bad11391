"""Writing one step, from all processes of a run.

Orbax's handlers write each process's part of the arrays, and merge them. The barriers
between are ours and not those of its checkpointers, so that a failure of one process is
known to all at once, and not after a time limit.
"""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.errors import RunError
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.runs.agreement import by_all, by_first
from gru_mem_jax.runs.checkpoints import trees as trees_lib
from gru_mem_jax.runs.checkpoints.orbax_workarounds import OrbaxNoise, plain_path
from gru_mem_jax.runs.checkpoints.places import Folders, Objects
from gru_mem_jax.runs.checkpoints.step import Pace, check_arrays


class Writing:
    """One step that is being written.

    Args:
      places: where.
      hosts: all of them make this, and call the same of its functions.
      step: its number.
      flat: tree name to flat tree of arrays, of all processes.
      contents: small files by path.
    """

    def __init__(
        self,
        places: Folders | Objects,
        hosts: Hosts,
        step: int,
        flat: Mapping[str, Mapping[str, Any]],
        contents: Mapping[str, bytes],
    ):
        self.step, self.pace = step, Pace()
        self._places, self._hosts, self._contents = places, hosts, contents
        self._folder = places.aside(step)
        # Orbax refuses empty trees; the record knows them.
        self._names = [name for name, tree in flat.items() if tree]
        self._shapes = {name: trees_lib.abstract(tree) for name, tree in flat.items()}
        self._needed = sum(map(len, contents.values()))
        self._needed += sum(trees_lib.nbytes(tree) for tree in flat.values())
        self._link = contextlib.ExitStack()
        self._noise = OrbaxNoise()
        self._writers: dict[str, tuple[Any, Any, list[Any]]] = {}

    def start(self, flat: Mapping[str, Mapping[str, Any]]) -> None:
        """Begins to write; returns when the arrays may be donated.

        Args:
          flat: as given before; not kept.

        Raises:
          RunError: on every process.
        """
        self._noise.start()
        self._first("begin", lambda: self._places.begin(self.step, self._names))
        self._all("copy", lambda: self._write_arrays(flat))

    def finish(self) -> None:
        """Waits until the step is written by all, proves it, and gives it its name.

        Raises:
          RunError: on every process.
        """
        rest = self.pace.start()
        self._all("write", self._wait)
        self._first("merge", self._merge)
        on_disk = not storage.in_bucket(self._folder)
        if on_disk:
            self._list(rest)
        self._all("verify", lambda: self._verify(rest))
        if not on_disk:  # the list is what makes it count
            self._list(rest)
        self._first("name", lambda: self._places.finish(self.step))
        for _, handler, _ in self._writers.values():
            handler.close()
        self._writers.clear()  # and with it what is left of the arrays on the host
        self._noise.stop()
        self._link.close()

    def give_up(self) -> None:
        """Cleans up after a failure, as far as possible."""
        for _, handler, futures in self._writers.values():
            for future in futures:
                with contextlib.suppress(Exception):
                    future.result()  # a failed one's neighbours still write
            with contextlib.suppress(Exception):
                handler.close()
        self._writers.clear()
        self._link.close()

    def _write_arrays(self, flat: Mapping[str, Mapping[str, Any]]) -> None:
        import orbax.checkpoint as ocp
        from etils import epath

        plain = self._link.enter_context(plain_path(self._places.directory))
        for name in self._names:
            folder = epath.Path(plain) / self._folder.name / name
            handler = ocp.StandardCheckpointHandler()
            self._writers[name] = folder, handler, []
            saving = handler.async_save(folder, args=ocp.args.StandardSave(flat[name]))
            self._writers[name][2].extend(_run(saving) or ())

    def _wait(self) -> None:
        for _, _, futures in self._writers.values():
            for future in futures:
                future.result()

    def _merge(self) -> None:
        for folder, handler, _ in self._writers.values():
            handler.finalize(folder)
        for name, data in self._contents.items():
            path = self._folder / name
            storage.make_folder(path.parent)
            durable_files.write_atomically(path, data)

    def _list(self, rest: Callable[[], None] | None) -> None:
        """Writes the list of sha256; each process reads its share of the files."""
        folder, hosts = self._folder, self._hosts
        if hosts.count == 1:
            with self._failing():
                durable_files.write_manifest(folder, rest)
            return
        part = (hosts.index, hosts.count)
        own = self._all("hash", lambda: durable_files.digests(folder, rest, part))
        found: dict[str, str] = {}
        for each in hosts.gather(self._call("hashes"), own):
            found |= each
        self._first("list", lambda: durable_files.write_list(folder, found))

    def _verify(self, rest: Callable[[], None] | None) -> None:
        """Reads back this process's share of the files, then of the arrays."""
        folder, part = self._folder, (self._hosts.index, self._hosts.count)
        found = []
        if not storage.in_bucket(folder):
            durable_files.drop_cached(folder)
            found += durable_files.problems(folder, rest, part)
        for name, data in self._contents.items():
            if not found and storage.read_bytes(folder / name) != data:
                found.append(f"{name} differs from what was written")
        if found:
            raise RunError(f"{folder}: differs from what was written: {found[0]}")
        check_arrays(folder, self._shapes, rest, part)

    def _call(self, name: str) -> str:
        return f"checkpoint {self.step}: {name}"

    def _first(self, name: str, function: Callable[[], None]) -> None:
        def failing() -> None:
            with self._failing():
                function()

        by_first(self._hosts, self._call(name), failing)

    def _all(self, name: str, function: Callable[[], Any]) -> Any:
        def failing() -> Any:
            with self._failing():
                return function()

        return by_all(self._hosts, self._call(name), failing)

    @contextlib.contextmanager
    def _failing(self):
        try:
            yield
        except Exception as error:  # Orbax raises what its backends raise
            folder = self._places.folder(self.step)
            needed = self._needed
            raise durable_files.storage_error(folder, error, needed=needed) from error


def _run(coroutine: Any) -> Any:
    """Its result, also where this thread runs an event loop, as a notebook's does."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
