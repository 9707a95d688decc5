"""An OpenAI-compatible chat server that misbehaves on demand. Standard library only.

A behaviour is a function of the handler and the question's text; it sends a response, or breaks the connection.
"""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


QUESTION = re.compile(r"<question-([0-9a-f]{16})>\n(.*)\n</question-\1>", re.DOTALL)
LEVELS = {"knowledge": 2, "reasoning": 3, "overall": 4}


class JudgeServer(ThreadingHTTPServer):
    """Answers every question by `behave(handler, question, time asked)`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave or (lambda handler, question, times: handler.answer(json.dumps(LEVELS)))
        self.asked: Counter = Counter()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.moments: list[float] = []
        self.busy = self.busiest = 0
        self.counting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = QUESTION.search(body["messages"][-1]["content"])[2]
        with server.counting:
            server.asked[question] += 1
            times = server.asked[question]
            server.bodies.append(body | {"path": self.path})
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.moments.append(time.monotonic())
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            server.behave(self, question, times)
        except (BrokenPipeError, ConnectionResetError):  # the client has gone
            self.close_connection = True
        finally:
            with server.counting:
                server.busy -= 1

    def answer(self, content, usage=(100, 10), finish="stop", **message):
        """A chat completion."""
        message = {"role": "assistant", "content": content} | message
        completion = {"choices": [{"index": 0, "finish_reason": finish, "message": message}], "model": "judge"}
        if usage is not None:
            completion["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
        self.send(200, completion)

    def send(self, status, body, headers=(), cut=None):
        """A response; with `cut` only so many of the bytes it promises, and then a dropped connection."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:cut])
        if cut is not None:
            self.drop()

    def drop(self):
        """Breaks the connection off."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()
