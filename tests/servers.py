"""A small HTTP server on this machine, for whatever asks one."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], tuple[int, Any] | tuple[int, Any, dict[str, str]]]
"""Of a request's document and its number: the status, what answers (a document, bytes, or bytes in pieces, which then
are all that is sent), and further headers."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve on a free port of this machine; yield the address and the list of requests."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"at": time.monotonic(), "token": self.headers.get("Authorization"), **document})
            status, body, *more = answer(document, len(seen))
            if isinstance(body, Iterator):
                self.send_pieces(body)
                return
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in more[0].items() if more else ():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            with suppress(OSError):  # nobody listens any more
                self.end_headers()
                self.wfile.write(content)

        def send_pieces(self, pieces: Iterator[bytes]) -> None:
            with suppress(OSError):  # nobody listens any more
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def log_message(self, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def chatting(reply: Callable[[str], str]) -> Answer:
    """Answer like an OpenAI-compatible endpoint. reply: to the last message."""

    def answer(document: dict[str, Any], number: int) -> tuple[int, Any]:
        said = reply(document["messages"][-1]["content"])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": document["model"]}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        return 200, {**head, "choices": [choice], "usage": usage}

    return answer
