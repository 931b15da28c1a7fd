"""`evomerge dashboard`: optuna-dashboard on a mirror of a run, on this machine's loopback only.

Nobody else can reach it, and a page in the user's browser can neither: requests that name another host
(DNS rebinding), or that would change something, are refused. The mirror is a copy; the run stays as it is.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from search_spaces.errors import InputError

HOST = "127.0.0.1"

_LOOK_SECONDS = 3.0
"""Between two looks at the run."""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(folder: Path, port: int, ready: Callable[[int], None] | None = None) -> None:
    """Serve the dashboard of a run until Ctrl-C.

    Args:
        folder: of the run: running, dead or finished.
        port: to listen on; 0: any that is free.
        ready: told the port once the server listens.

    Raises:
        InputError: no run there, the port is taken, or optuna-dashboard is not installed.
    """
    app, mirror = _app(folder)
    with _server(app, port) as server:
        over = threading.Event()
        watch = threading.Thread(target=_follow, args=(mirror, folder, over), daemon=True)
        watch.start()
        print(
            f"http://{HOST}:{server.server_port}/ shows {folder}; Ctrl-C ends it", file=sys.stderr
        )
        if ready is not None:
            ready(server.server_port)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("closed", file=sys.stderr)
        finally:
            over.set()


def _app(folder: Path) -> tuple[App, Any]:
    from evomerge.live.mirror import Mirror

    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise InputError(
            "optuna-dashboard",
            "it is not installed",
            "evomerge dashboard",
            "install it with: pip install 'evomerge[dashboard]'",
        ) from None
    from optuna.storages import InMemoryStorage

    storage = InMemoryStorage()
    mirror = Mirror(folder, storage)
    return _guarded(wsgi(storage)), mirror


def _follow(mirror: Any, folder: Path, over: threading.Event, every: float = _LOOK_SECONDS) -> None:
    """Keep a mirror up to date, until the run is gone or `over`."""
    while not over.wait(every):
        try:
            mirror.update()
        except (InputError, OSError):
            if not (folder / "run.db").exists():
                print(f"{folder} is gone; what is shown stays as it was", file=sys.stderr)
                return
            # else a file changed while it was read, or a disk was away: the next look sees it


def _guarded(app: App) -> App:
    """Only reads, and only for this machine's own browser."""

    def guarded(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        host = environment.get("HTTP_HOST", "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            return _refused(start, "403 Forbidden", "this server is for this machine only")
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refused(start, "405 Method Not Allowed", "the mirror of a run is read-only")
        return app(environment, start)

    return guarded


def _refused(start: Callable[..., Any], status: str, reason: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [reason.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a browser asks every few seconds."""


def _server(app: App, port: int) -> WSGIServer:
    try:
        return make_server(HOST, port, app, _Server, _Quiet)
    except OSError as error:
        raise InputError(
            f"--port {port}",
            f"it cannot be listened on ({error.strerror or error})",
            f"{HOST}:{port}",
            "give another, or 0 for any that is free",
        ) from None
