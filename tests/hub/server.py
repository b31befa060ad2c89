"""A small local hub: just the routes that `from_pretrained` and `load_dataset` ask for.

    ROOT/models/OWNER/NAME/…     ROOT/datasets/OWNER/NAME/…
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


def serve(root: Path) -> tuple[ThreadingHTTPServer, str, list[str]]:
    """Start the server on a free loopback port; returns it, its address and the requests it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            seen.append(f"{self.command} {path}")
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path):
                kind, name, rest = match.groups()
                self.api(root / kind / name, name, rest or "", body)
            elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                kind = "datasets" if match.group(1) else "models"
                self.file(root / kind / match.group(2) / match.group(3), body)
            else:
                self.missing("RepoNotFound")

        def api(self, folder: Path, name: str, rest: str, body: bool) -> None:
            if not folder.is_dir():
                return self.missing("RepoNotFound")
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            if rest.startswith("/tree/"):
                inside = "/".join(rest.split("/")[3:])
                if inside and not (folder / inside).is_dir():
                    return self.missing("EntryNotFound")
                entries = [
                    {"type": "directory" if p.is_dir() else "file", "oid": etag(p),
                     "size": p.stat().st_size if p.is_file() else 0,
                     "path": p.relative_to(folder).as_posix()}
                    for p in sorted((folder / inside).rglob("*"))]
                return self.send_json(entries, body)
            return self.send_json({
                "id": name, "modelId": name, "sha": SHA, "private": False, "gated": False,
                "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": p.relative_to(folder).as_posix()} for p in files],
            }, body)

        def file(self, path: Path, body: bool) -> None:
            if not path.is_file():
                return self.missing("EntryNotFound")
            content = path.read_bytes()
            first, last = 0, len(content) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                first = int(asked.group(1))
                last = min(int(asked.group(2) or last), last)
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{etag(path)}"')
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if body:
                self.wfile.write(content[first:last + 1])

        def send_json(self, value, body: bool) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}", seen


def etag(path: Path) -> str:
    """A stable name of a file's content."""
    return hashlib.sha1(path.read_bytes() if path.is_file() else path.name.encode()).hexdigest()
