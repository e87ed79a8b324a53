"""
The real library in small worlds of users, in which chance is a seed and time costs nothing.

The oracle is the user, handed on as a plain argument; whatever ringfence says is held against it.
"""

from __future__ import annotations

from .leg import run

__all__ = ["run"]
