"""Serves the program of docs/shutdown.md by real servers, and stops them while it is at work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
PATIENCE = 20  # seconds


class Stopped(NamedTuple):
    """What a SIGTERM in the middle of a request led to."""

    status: int | None
    said: str


def serve_and_stop(server: str, options: list[str], seconds: str, folder: Path) -> Stopped:
    """
    What a request of `seconds` is answered, and what the application prints, if it is stopped.

    Args:
        folder: where its `app.py` is.
    """
    port = _free_port()
    command = [sys.executable, "-m", server, "app:app", *_address(server, port), *options]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            return _stop_at_work(process, port, seconds)
        finally:
            _end_group(process)


def _stop_at_work(process: subprocess.Popen[str], port: int, seconds: str) -> Stopped:
    assert process.stdout is not None
    answer: list[bytes] = []
    client = threading.Thread(target=lambda: answer.append(_get(port, f"/wait/{seconds}")))
    client.start()
    said = []
    for line in process.stdout:  # ends with the server
        said.append(line)
        if line.startswith("begins"):
            process.send_signal(signal.SIGTERM)
    client.join(PATIENCE)
    status_line = answer[0].split(b" ") if answer else []
    return Stopped(int(status_line[1]) if len(status_line) > 1 else None, "".join(said))


def _get(port: int, path: str) -> bytes:
    with _connection(port) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n".encode()
        )
        try:
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""


def _connection(port: int) -> socket.socket:
    """As soon as the server listens."""
    for _ in range(PATIENCE * 20):
        try:
            return socket.create_connection((HOST, port), timeout=PATIENCE)
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    raise TimeoutError("the server does not listen")


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _address(server: str, port: int) -> list[str]:
    if server == "hypercorn":
        return ["--bind", f"{HOST}:{port}"]
    return ["--host", HOST, "--port", str(port)]


def _end_group(process: subprocess.Popen[str]) -> None:
    """The server that we started, with its workers; what has ended is no error."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
