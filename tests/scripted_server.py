"""An OpenAI-like endpoint on loopback whose answers a test scripts."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str, prompt_tokens: int = 7, completion_tokens: int = 3) -> Reply:
    """A chat completion."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    body = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


@contextlib.contextmanager
def scripted(answer: Callable[[int, dict[str, Any]], Reply | None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server whose `answer(number, body)` is the reply (None: the connection breaks), and all that was asked."""
    asked: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked)
                asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
            reply = answer(number, body)
            if reply is None:
                self.close_connection = True
                return
            status, headers, data = reply
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
