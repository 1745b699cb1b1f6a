"""A local HTTP server that plays a mirror: files, scripted misfortunes, index pages, and a count of the requests."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """One scripted answer. ``cut`` bytes are announced and not sent."""

    status: int
    body: bytes = b""
    cut: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class MirrorServer:
    """``files`` are served once the ``script`` of their path is used up; folders have an index; the rest is 404."""

    def __init__(self, files: dict[str, bytes], index: bool) -> None:
        self.files, self.index = files, index
        self.script: dict[str, list[Answer]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.url = ""

    def answer(self, path: str) -> Answer:
        if self.script[path]:
            return self.script[path].pop(0)
        if path in self.files:
            return Answer(200, self.files[path])
        below = {name[len(path) :].split("/")[0] for name in self.files if name.startswith(path) and path[-1:] == "/"}
        if self.index and below:
            links = "".join(f'<a href="{name}/">{name}/</a>\n' for name in sorted(below))
            return Answer(200, f'<a href="../">up</a> <a href="?C=N;O=D">Name</a>\n{links}'.encode())
        return Answer(404, b"no such file")


@contextmanager
def serve(files: dict[str, bytes], index: bool = True) -> Iterator[MirrorServer]:
    """A mirror with these files, on 127.0.0.1 and a free port."""
    mirror = MirrorServer(files, index)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            mirror.requests[path] += 1
            mirror.agents.add(self.headers["User-Agent"])
            answer = mirror.answer(path)
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body) + answer.cut))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
