"""Migrations of Alembic's, run for real: up, down, as a script, and on another database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text

from ringfence.testing.postgres import PostgresServer

ENV = """
from alembic import context
from sqlalchemy import create_engine

import ringfence.integrations.alembic

url = context.config.get_main_option("sqlalchemy.url")
if context.is_offline_mode():
    context.configure(url=url)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(url)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
"""
REVISION = """
from alembic import op
from sqlalchemy import Column, String

revision, down_revision = "one", None

def upgrade():
    op.create_table("migrated", Column("owner_id", String), Column("firm", String))
    op.enable_row_security("migrated", tenant="firm", tenant_setting="app.firm")

def downgrade():
    op.disable_row_security("migrated")
"""
STATE = text("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'migrated'")
POLICIES = text("SELECT policyname, qual FROM pg_policies WHERE tablename = 'migrated'")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "versions" / "one.py").write_text(REVISION)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    return config


@pytest.fixture
def engine(postgres: PostgresServer, config: Config) -> Iterator[Engine]:
    engine = create_engine(postgres.url("psycopg"))
    config.set_main_option("sqlalchemy.url", postgres.url("psycopg"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS migrated, alembic_version"))
    engine.dispose()


def test_up_and_down(config: Config, engine: Engine) -> None:
    command.upgrade(config, "head")
    with engine.connect() as connection:
        assert connection.execute(STATE).one() == (True, True)
        policies = dict(connection.execute(POLICIES).all())  # type: ignore[arg-type]
    assert set(policies) == {"ringfence_owner", "ringfence_allow"}
    assert "ringfence.user_id" in policies["ringfence_owner"]
    assert "app.firm" in policies["ringfence_owner"]
    command.downgrade(config, "base")
    with engine.connect() as connection:
        assert connection.execute(STATE).one() == (False, False)
        assert connection.execute(POLICIES).all() == []


def test_as_a_script(config: Config, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """`alembic upgrade --sql`, which the server then takes."""
    command.upgrade(config, "head", sql=True)
    script = capsys.readouterr().out
    raw = engine.raw_connection()
    raw.cursor().execute(script)  # type: ignore[arg-type]
    raw.close()
    with engine.connect() as connection:
        assert connection.execute(STATE).one() == (True, True)


def test_on_another_database_nothing_is_done(config: Config, tmp_path: Path) -> None:
    config.set_main_option("sqlalchemy.url", f"sqlite:///{tmp_path / 'rows.db'}")
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    engine = create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM migrated")).scalar_one() == 0
    engine.dispose()
