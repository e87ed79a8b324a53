"""Code bases for tests: written to a folder, hashed, committed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

MODULES = (
    "netra.services.user_execution_context",
    "netra.agents.supervisor.user_execution_context",
    "netra.models.user_execution_context",
)
FILE = """\
import asyncio

from {module} import UserExecutionContext  # number {number}


class Agent{number}:
    def __init__(self, context: UserExecutionContext) -> None:
        self.context = context

    def socket(self):
        return self.context.websocket_connection_id

    def child(self, step):
        return self.context.create_child_context(
            "step", additional_metadata={{"step": step, "client_ip": "1.2.3.4"}}
        )


def make(user):
    return UserExecutionContext(
        user_id=user, thread_id="t", run_id="r", websocket_connection_id="w",
        metadata={{"plan": "basic"}},  # what is paid for
    )
"""
OTHER = "import os\n\n\ndef f{number}(a):\n    return os.path.join(a, 'x')\n"
FOLDERS = ("app/agents", "app/routes", "tests", "examples", "scripts")


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Files by their relative path."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def many(folder: Path, count: int = 1_000) -> Path:
    """A synthetic code base: every fourth file uses an old module."""
    files: dict[str, str | bytes] = {"pyproject.toml": '[project]\nname = "synthetic"\n'}
    for number in range(count):
        name = f"{FOLDERS[number % 5]}/part_{number % 17}/file_{number}.py"
        text = FILE if number % 4 == 0 else OTHER
        files[name] = text.format(number=number, module=MODULES[number % 3])
    return write(folder, files)


def digest(folder: Path) -> str:
    """Names, modes and contents of all files but the journals."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if parts[0] not in (".ringfence", ".git") and path.is_file():
            total.update(f"{path} {path.stat().st_mode:o}\n".encode() + path.read_bytes())
    return total.hexdigest()


def git(folder: Path, *words: str) -> None:
    """Run git, of which nobody else's configuration is read."""
    environ = {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    command = ["git", "-C", str(folder), *words]
    subprocess.run(command, env=environ, check=True, capture_output=True)


def commit(folder: Path) -> Path:
    """Make a repository of a folder, with everything committed."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder
