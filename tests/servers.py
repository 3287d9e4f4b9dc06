"""Servers with OpenAI's interface on this machine: a scripted one, and vLLM's own."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from waiting import wait_until


class Script(BaseHTTPRequestHandler):
    """Answers each request with what the server's `reply` returns for its body: status, content and perhaps headers.

    Content that is not bytes is sent as JSON.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, content, *headers = self.server.reply(body)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(*headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def scripted_server() -> Iterator[ThreadingHTTPServer]:
    """A server whose `reply` a test sets; `seen` is its requests, `url` its address up to /v1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.seen = []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def free_ports(n: int) -> list[int]:
    """Free ports below those that the kernel itself hands out (32768 and above)."""
    found: list[int] = []
    for port in random.Random().sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found[:n]


@contextlib.contextmanager
def vllm_server(folder: Path, model: Path, key: str, *options: str) -> Iterator[str]:
    """The address of a real vLLM server on a free port, whose model is called tiny; its log is in `folder`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "float32"]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(64 << 20), *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_API_KEY": key}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:

        def is_healthy() -> bool:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10):
                return True
            return False

        wait_until(is_healthy)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):  # of the whole session: the server and its engine
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, end)
                process.wait(60)
