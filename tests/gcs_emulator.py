"""Google Cloud Storage in a process: gcp-storage-emulator, and what it lacks.

It lacks generations of what is read, conditions on them, permissions, and writers that
are killed between two objects; they are put around its handlers here. `started` is for
tests; as a program this module is the server.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus

BUCKETS = ("bucket", "private", "readonly")


@contextlib.contextmanager
def started(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """A server; gives the variables that lead to it.

    Args:
      folder: where `kill_after` puts its orders.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(port), str(folder / "kill.json")]
    # It prints tracebacks of clients that take an answer's head alone.
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end and server.poll() is None:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port), timeout=1),
                ):
                    break
                time.sleep(0.02)
            url = f"http://127.0.0.1:{port}"
            yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        finally:
            server.kill()


def kill_after(folder: pathlib.Path, pid: int, objects: int, prefix: str) -> None:
    """Kills a process once it has written so many more objects below a prefix."""
    order = {"pid": pid, "objects": objects, "prefix": prefix}
    (folder / "kill.json.new").write_text(json.dumps(order))
    os.replace(folder / "kill.json.new", folder / "kill.json")


def serve(port: int, orders: pathlib.Path) -> None:
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import buckets

    def guarded(handler, verb):
        def handle(request, response, storage, *args, **kwargs):
            bucket = request.params.get("bucket_name")
            name = _name(request)
            refused = bucket == "private" or (bucket == "readonly" and verb != "GET")
            if refused:
                response.status = HTTPStatus.FORBIDDEN
                message = "tester does not have storage.objects access"
                response.json({"error": {"code": 403, "message": message}})
                return None
            wanted = request.query.get("ifGenerationMatch")
            if wanted and name and _generation(storage, bucket, name) != wanted[0]:
                response.status = HTTPStatus.PRECONDITION_FAILED
                response.json({"error": {"code": 412, "message": "conditionNotMet"}})
                return None
            if verb == "GET" and name:  # tensorstore writes only over what it has read
                generation = _generation(storage, bucket, name)
                response["x-goog-generation"] = generation
            found = handler(request, response, storage, *args, **kwargs)
            if verb in ("POST", "PUT") and name:
                _written(orders, name)
            return found

        return handle

    for _, methods in server.HANDLERS:
        for verb, handler in list(methods.items()):
            methods[verb] = guarded(handler, verb)
    found = server.create_server("127.0.0.1", port, in_memory=True)
    for bucket in BUCKETS:
        buckets.create_bucket(bucket, found._storage)
    found.run()


def _name(request) -> str | None:
    """Of the object; an upload may have it in its query or in its body."""
    if name := request.params.get("object_id"):
        return name
    if name := request.query.get("name"):
        return name[0]
    if "uploadType" in request.query and isinstance(request.data, dict):
        return request.data.get("meta", {}).get("name")
    return None


def _generation(storage, bucket: str, name: str) -> str:
    return storage.objects.get(bucket, {}).get(name, {}).get("generation", "0")


def _written(orders: pathlib.Path, name: str) -> None:
    try:
        order = json.loads(orders.read_text())
    except FileNotFoundError:
        return
    if not name.startswith(order["prefix"]):
        return
    order["objects"] -= 1
    if order["objects"] <= 0:
        orders.unlink()
        with contextlib.suppress(ProcessLookupError):
            os.kill(order["pid"], signal.SIGKILL)
    else:
        orders.write_text(json.dumps(order))


if __name__ == "__main__":
    serve(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
