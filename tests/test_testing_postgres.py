"""Where a PostgreSQL for tests is: its address, however it is written."""

from __future__ import annotations

import pytest

from ringfence import ConfigurationError
from ringfence.testing.postgres import ADDRESS, PostgresServer, postgres_server

REST = "ann:postgresql@127.0.0.1:5432/notes?application_name=postgresql"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgres+x"])
def test_its_address_is_the_same_however_it_is_written(scheme: str) -> None:
    server = PostgresServer(f"{scheme}://{REST}", "here")
    assert server.dsn == f"postgresql://{REST}"
    assert server.url("psycopg") == f"postgresql+psycopg://{REST}"
    assert server.url("asyncpg") == f"postgresql+asyncpg://{REST}"


@pytest.mark.parametrize("address", ["mysql://u:secret@h/d", "host=h password=secret", "secret"])
def test_any_other_address_is_refused_and_not_shown(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(ConfigurationError, match=ADDRESS) as refused:
        with postgres_server():
            pass
    assert "secret" not in str(refused.value)
