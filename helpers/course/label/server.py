"""The server of the page: answers are on the disk before it says so, and strangers are refused.

It listens on this computer alone unless another address is asked for; then whoever comes needs the
token in the address that is printed. A page of another origin can neither read nor post: a request
must name this server as its host, and a post must come from this page and carry a header that a
form cannot send.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import signal
import tempfile
from pathlib import Path
from typing import Any

from tornado import httpserver, netutil, web

from helpers.course.label.queue import Queue
from helpers.errors import UserError

HERE = Path(__file__).parent
FILES = {"": ("page.html", "text/html"), "page.js": ("page.js", "text/javascript"),
         "page.css": ("page.css", "text/css")}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store"}
LONGEST_POST = 10_000  # bytes


class Handler(web.RequestHandler):
    """What all requests have in common: who may ask, and how a refusal looks."""

    def initialize(self, queue: Queue, token: str | None, hosts: set[str] | None) -> None:
        self.queue, self.token, self.hosts = queue, token, hosts

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        host = self.request.host
        if self.hosts is not None and host.lower() not in self.hosts:
            self._refuse(403, "this server is asked under another name")
        if self.request.method == "POST":
            origin = self.request.headers.get("Origin")
            if self.request.headers.get("X-Label") != "1" or (
                    origin is not None and origin.partition("://")[2] != host):
                self._refuse(403, "answers are taken from this server's own page only")
        if self.token is not None and self.request.path.startswith("/api/"):
            given = self.request.headers.get("X-Token", "")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                self._refuse(403, "the token is missing or wrong; open the printed address")

    def answer(self, value: Any) -> None:
        """Send JSON."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value))

    def write_error(self, status_code: int, **info: Any) -> None:
        error = info.get("exc_info", (None, None, None))[1]
        if isinstance(error, UserError):  # bad input, or a disk that is full: a sentence
            self.set_status(400)
            self.answer({"error": str(error)})
        else:
            self.answer({"error": getattr(error, "reason", None) or "the server made a mistake"})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, UserError):
            super().log_exception(typ, value, tb)

    def _refuse(self, status: int, reason: str) -> None:
        raise web.HTTPError(status, reason=reason)


class Page(Handler):
    """The page and what belongs to it; nothing that anybody wrote is in it."""

    def get(self, name: str) -> None:
        file, kind = FILES[name]
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.finish((HERE / file).read_bytes())


class Next(Handler):
    """The next pair for `annotator`."""

    def get(self) -> None:
        self.answer(self.queue.next(self.get_query_argument("annotator", "")))


class Last(Handler):
    """The pair that `annotator` answered last."""

    def get(self) -> None:
        self.answer({"item": self.queue.last(self.get_query_argument("annotator", ""))})


class Answer(Handler):
    """Store an answer; what comes back is the next pair."""

    def post(self) -> None:
        try:
            given = json.loads(self.request.body)
            annotator, item, choice = (given[key] for key in ("annotator", "item", "choice"))
        except (ValueError, KeyError, TypeError):
            self._refuse(400, "an answer names annotator, item and choice")
            return
        self.queue.answer(annotator, item, choice)
        self.answer(self.queue.next(annotator))


class Export(Handler):
    """All answers as CSV, safe to open in a spreadsheet."""

    def get(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answers.csv"
            self.queue.store.to_csv(path)
            content = path.read_bytes()
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="answers.csv"')
        self.finish(content)


def application(queue: Queue, token: str | None, hosts: set[str] | None) -> web.Application:
    """The routes.

    Args:
        token: asked of every request for data, or None.
        hosts: the names, with port, under which the server may be asked; None: any.
    """
    shared = {"queue": queue, "token": token, "hosts": hosts}
    return web.Application([
        (r"/(page\.js|page\.css|)", Page, shared), (r"/api/next", Next, shared),
        (r"/api/last", Last, shared), (r"/api/answer", Answer, shared),
        (r"/api/export", Export, shared)], log_function=lambda handler: None)


def serve(queue: Queue, host: str = "127.0.0.1", port: int = 8765) -> int:
    """Answer until Ctrl+C or a request of the system to end; 0.

    Args:
        port: 0 takes any that is free.

    Raises:
        UserError: the port is taken, or there is no such address here.
    """
    try:
        sockets = netutil.bind_sockets(port, host)
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used ({error.strerror}); give another by "
                        "--port.") from error
    port = sockets[0].getsockname()[1]
    alone = host in LOOPBACK
    token = None if alone else secrets.token_urlsafe(16)
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} if alone else None
    asyncio.run(_run(application(queue, token, hosts), sockets, host, port, token))
    return 0


async def _run(app: web.Application, sockets: Any, host: str, port: int, token: str | None) -> None:
    done, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, done.set)
        except NotImplementedError:  # Windows: Ctrl+C ends asyncio.run by itself
            break
    server = httpserver.HTTPServer(app, max_body_size=LONGEST_POST)
    server.add_sockets(sockets)
    print(f"Open http://{host}:{port}/{f'#{token}' if token else ''} in a browser; Ctrl+C ends.",
          flush=True)
    await done.wait()
    server.stop()
    await server.close_all_connections()
