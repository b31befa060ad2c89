"""A small local hub: the routes that `from_pretrained` and `load_dataset` ask for, and its faults.

    ROOT/models/OWNER/NAME/…     ROOT/datasets/OWNER/NAME/…     main, or the only revision there is
    ROOT/models/OWNER/NAME@REV/…                                 another one, with -- for / in it
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FAULTS = ("gated", "429", "500", "cut", "hang")
KINDS = ("models", "datasets")


@dataclass
class Fault:
    """What goes wrong with a repository, and how many times before it is over."""

    kind: str
    times: float = float("inf")

    def strikes(self) -> bool:
        self.times -= 1
        return self.times >= 0


class LocalHub:
    """Serves a folder on a free loopback port for as long as the `with` block lasts.

    Attributes:
        address: what HF_ENDPOINT is to be.
        requests: (method, path) of all requests so far, in their order.
        faults: repository to `Fault`. `gated` and `cut` are of files, the others of every request.
        revisions: (kind, repository) to the commits, besides its own, that mean its main.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self.revisions: dict[tuple[str, str], set[str]] = {}
        self.closing = threading.Event()

    def __enter__(self) -> LocalHub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> Counter:
        """How often each file was asked for with GET, by `owner/name/path` or `datasets/…`."""
        paths = (re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", path)
                 for method, path in self.requests if method == "GET")
        return Counter("/".join(map(unquote, found.groups())) for found in paths if found)

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables for a process that takes this for the hub, with a cache of its own."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def folder(self, kind: str, name: str, revision: str) -> tuple[Path | None, str]:
        """Where a revision lies (None: there is none), and its commit."""
        place = self.root / kind / name
        for folder in [place, *place.parent.glob(f"{place.name}@*")]:
            own = folder.name.partition("@")[2].replace("--", "/") or "main"
            commit = hashlib.sha1(f"{kind}/{name}@{own}".encode()).hexdigest()
            if revision in {own, commit}:
                return folder, commit
        if place.is_dir() and revision in self.revisions.get((kind, name), ()):
            return place, revision  # a commit, which stands for itself
        return None, ""


def serve(root: Path) -> tuple[LocalHub, str]:
    """Start a hub that nobody closes before the process ends; returns it and its address."""
    hub = LocalHub(root).__enter__()
    return hub, hub.address


def handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    """The class that answers for a hub."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path))
            self.commit = ""
            if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path):
                kind, name, rest = found.groups()
                what, revision, inside = (*(rest or "").split("/", 2), "", "")[:3]
                asked = (kind, name, unquote(revision) or "main")
                act = self.tree if what == "tree" else self.info
            elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                kind, name, revision, inside = found.groups()
                asked = ("datasets" if kind else "models", name, unquote(revision))
                act = self.file
            else:
                return self.refuse(404, "RepoNotFound")
            if self.fault(name, act):
                return None
            if not any(p.is_dir() for p in [hub.root / asked[0] / name, *(
                    hub.root / asked[0]).glob(f"{name}@*")]):
                return self.refuse(404, "RepoNotFound")
            folder, self.commit = hub.folder(*asked)
            if folder is None:
                return self.refuse(404, "RevisionNotFound")
            act(name, folder, unquote(inside))

        def fault(self, name: str, act) -> bool:
            """Whether the request was spoilt; a download to be cut is only marked."""
            self.cut, fault = False, hub.faults.get(name)
            if fault is None or (fault.kind in ("gated", "cut") and act != self.file):
                return False
            if fault.kind == "cut":
                self.cut = self.command == "GET" and fault.strikes()
            elif fault.strikes():
                if fault.kind == "hang":
                    hub.closing.wait(600)
                    self.close_connection = True
                else:
                    self.refuse(403 if fault.kind == "gated" else int(fault.kind),
                                "GatedRepo" if fault.kind == "gated" else "")
                return True
            return False

        def info(self, name: str, folder: Path, _: str) -> None:
            self.send_json({
                "id": name, "modelId": name, "sha": self.commit, "private": False,
                "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": p.relative_to(folder).as_posix()}
                             for p in sorted(folder.rglob("*")) if p.is_file()]})

        def tree(self, name: str, folder: Path, inside: str) -> None:
            if not (folder / inside).is_dir():
                return self.refuse(404, "EntryNotFound")
            self.send_json([
                {"type": "directory" if p.is_dir() else "file", "oid": etag(p),
                 "size": p.stat().st_size if p.is_file() else 0,
                 "path": p.relative_to(folder).as_posix()}
                for p in sorted((folder / inside).rglob("*"))])

        def file(self, name: str, folder: Path, inside: str) -> None:
            path = folder / inside
            if not path.is_file():
                return self.refuse(404, "EntryNotFound")
            content = path.read_bytes()
            first, last = 0, len(content) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                first = int(asked.group(1))
                last = min(int(asked.group(2) or last), last)
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", self.commit)
            self.send_header("ETag", f'"{etag(path)}"')
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if self.command == "GET":
                end = first + (last - first) // 2 if self.cut else last + 1
                self.wfile.write(content[first:end])
                self.close_connection = self.cut

        def send_json(self, value) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("X-Repo-Commit", self.commit)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def refuse(self, status: int, code: str = "") -> None:
            self.send_response(status)
            if self.commit:
                self.send_header("X-Repo-Commit", self.commit)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def etag(path: Path) -> str:
    """A stable name of a file's content."""
    return hashlib.sha1(path.read_bytes() if path.is_file() else path.name.encode()).hexdigest()
