"""`ringfence torture --init`: a scenario to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ...errors import ConfigurationError

__all__ = ["FILE", "write_template"]

FILE = "torture_scenario.py"


def write_template(path: Path) -> str:
    """
    Write it, and say how to run it.

    Raises:
        ConfigurationError: there is something already.
    """
    text = files("ringfence.testing.torture").joinpath("scenario_template.py").read_text()
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigurationError(f"`{path}` is there already.", "Name another.") from None
    except OSError as error:
        raise ConfigurationError(f"`{path}` cannot be written: {error}.", "Name another.") from None
    return (
        f"wrote {path}; it runs as it is:\n"
        f"  ringfence torture ringfence.testing.torture.example:app --scenario {path}"
    )
