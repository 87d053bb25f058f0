"""A small HTTP server on this machine, for whatever asks one."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]
"""Of a request's document and its number: the status and the document that answers."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve on a free port of this machine; yield the address and the list of requests."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"at": time.monotonic(), "token": self.headers.get("Authorization"), **document})
            status, body = answer(document, len(seen))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
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
