"""Files as bytes: line ends, encodings and marks are kept; what is no Python text is reported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ringfence.migrate import rewrite
from ringfence.migrate.config import Config
from ringfence.migrate.examine import examine
from ringfence.migrate.findings import Edit, Finding
from ringfence.migrate.rewrite import rewritten

PATH = Path("/project/app/file.py")
OLD = "from netra.services.user_execution_context import UserExecutionContext"
NEW = "from ringfence.legacy import UserExecutionContext"
MARK = b"\xef\xbb\xbf"


def _imports(data: bytes) -> bytes:
    return rewritten(PATH, data, Config(), "imports").after


KEPT = {
    "crlf": f"import os\r\n{OLD}\r\nx = 'é'\r\n".encode(),
    "mixed line ends": f"import os\r\n{OLD}\nx = '''a\r\nb\nc'''\r\n".encode(),
    "byte order mark": MARK + f"{OLD}\nx = 'é'\n".encode(),
    "byte order mark and crlf": MARK + f"{OLD}\r\n".encode(),
    "latin-1 by cookie": f"# -*- coding: latin-1 -*-\n{OLD}  # é\nx = 'ü'\n".encode("latin-1"),
    "cp1252 in the second line": f"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\n{OLD}\n"
    "x = '€'\n".encode("cp1252"),
    "koi8-r": f"# coding: koi8-r\nx = 'Привет'; {OLD}\n".encode("koi8-r"),
    "utf-8": f"x = '→ 😀'; {OLD}\n".encode(),
    "no line end at the end": OLD.encode(),
    "blank lines and trailing spaces": f"\n\n   \n{OLD}   \n\n\n".encode(),
    "line continuation and tabs": f"if True:\n\tx = 1 + \\\n\t\t2\n\t{OLD}\n".encode(),
}


@pytest.mark.parametrize("name", KEPT)
def test_everything_else_is_kept_byte_for_byte(name: str) -> None:
    data = KEPT[name]
    assert _imports(data) == data.replace(OLD.encode(), NEW.encode())


def test_a_new_line_ends_like_the_one_it_came_from() -> None:
    module = "a.agents.supervisor.execution_factory"
    data = f"import os\n\r\nfrom {module} import X, UserExecutionContext\r\n".encode()
    assert _imports(data) == f"import os\n\r\n{NEW}\r\nfrom {module} import X\r\n".encode()


REFUSED = {
    "null bytes": (b"\x00\x01" + OLD.encode(), "RM902"),
    "binary junk": (bytes(range(1, 256)) + OLD.encode(), "RM902"),
    "no cookie": (f"{OLD}\nx = 'é'\n".encode("latin-1"), "RM902"),
    "unknown cookie": (f"# coding: nonsense\n{OLD}\n".encode(), "RM902"),
    "mark against cookie": (MARK + f"# coding: latin-1\n{OLD}\n".encode(), "RM902"),
    "utf-16": (OLD.encode("utf-16"), "RM902"),
    "a form feed": (f"{OLD}\n\x0cx = 1\n".encode(), "RM903"),
    "an encoding that forgets": (f"# coding: utf-7\n{OLD}\nx = '+AGE-'\n".encode(), "RM903"),
    "brackets without end": (OLD.encode() + b"\nx = " + b"(" * 50_000, "RM901"),
    "nested deeply": (OLD.encode() + b"\nx = " + b"1 + " * 20_000 + b"1\n", "RM901"),
    "nested very deeply": (OLD.encode() + b"\nx = " + b"-" * 200_000 + b"1\n", "RM901"),
    "Python 2": (f"{OLD}\nexec 'x'\n".encode(), "RM901"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_reported_and_left_alone(name: str) -> None:
    data, code = REFUSED[name]
    (found,) = examine(PATH, data, Config())
    assert found.code == code
    assert found.reason
    change = rewritten(PATH, data, Config(), "imports")
    assert change.after == data
    assert [finding.code for finding in change.left] == [code]


@pytest.mark.parametrize("data", [b"", b"\n", b"# only a comment", b"\xef\xbb\xbf"])
def test_empty_files(data: bytes) -> None:
    assert examine(PATH, data, Config()) == []
    assert _imports(data) == data


def test_ten_thousand_lines() -> None:
    body = "\n".join(f"def f{n}(a, b):\n    return a + b * {n}\n" for n in range(3_400))
    last = "c = UserExecutionContext('u', 't', 'r'); c.websocket_connection_id"
    data = f"{OLD}\n{body}\n{last}\n".encode()
    assert data.count(b"\n") > 10_000
    change = rewritten(PATH, data, Config(), "imports")
    assert change.after == data.replace(OLD.encode(), NEW.encode())
    assert [(one.code, one.line) for one in change.left] == [
        ("RM121", 1),
        ("RM301", data.count(b"\n")),
    ]


def test_a_result_that_does_not_parse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence against faults of our own."""

    found = [[Finding("RM101", 1, "", edits=(Edit(0, 4, "def ("),))]]  # and nothing after that

    def broken(*_: object) -> list[Finding]:
        return found.pop() if found else []

    monkeypatch.setattr(rewrite, "examine_source", broken)
    change = rewritten(PATH, OLD.encode(), Config(), "imports")
    assert change.after == OLD.encode()
    assert [finding.code for finding in change.left] == ["RM904"]


def test_a_rewriting_without_end_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object) -> list[Finding]:
        return [Finding("RM101", 1, "", edits=(Edit(0, 0, "#"),))]

    monkeypatch.setattr(rewrite, "examine_source", endless)
    change = rewritten(PATH, OLD.encode(), Config(), "imports")
    assert change.after == OLD.encode()
    assert [finding.code for finding in change.left] == ["RM904"]


def test_positions_are_those_of_the_bytes_after_letters_of_many_bytes() -> None:
    data = f"x = 'é😀→'; {OLD} ; y = 'é'\n".encode()
    assert ast.unparse(ast.parse(_imports(data))) == ast.unparse(
        ast.parse(data.replace(OLD.encode(), NEW.encode()))
    )
