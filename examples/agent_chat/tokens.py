from typing import Any
Identify = Any
