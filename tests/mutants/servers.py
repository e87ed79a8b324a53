"""Defects that show over real sockets."""

from __future__ import annotations

from .mutant import Mutant, mutant

MATRIX = "tests/integration/test_matrix.py"
RIGHT = f"{MATRIX}::test_everybody_is_who_they_are"
CUT_SHORT = f"{MATRIX}::test_what_the_server_does_not_end_the_fence_does"

MUTANTS: list[Mutant] = [
    mutant(
        "5: a server's process ends before what it has cancelled is cleaned up",
        "shutdown.py",
        "    late, cancelled = await _watch(work, limit)\n",
        "    late, cancelled = list[Work](), None\n",
        f"{RIGHT}[uvicorn-asyncio-h11-wsproto-SIGTERM-grace]",
    ),
    mutant(
        "5: what a server does not end at shutdown goes on",
        "shutdown.py",
        "        _cancel([root for root in requests if root._state is not CLOSED])\n",
        "",
        f"{CUT_SHORT}[uvicorn-asyncio-h11-wsproto]",
    ),
    mutant(
        "outcome: hypercorn's client leaves whenever a stream ends",
        "integrations/_exchange.py",
        "            self.is_started = self.is_complete = True\n        return self._send(message)\n",
        "            self.is_started = True\n        return self._send(message)\n",
        f"{RIGHT}[hypercorn-trio-stream]",
    ),
]
