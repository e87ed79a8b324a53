"""Routes: FastAPI end to end, one object injected into the route by each library."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any

from ringfence import Identity
from ringfence.injection import Injected, inject

from .asgi import REQUEST, receive, send
from .cases import IDS
from .containers import OURS, Asking, dishka_of, fastapi_callables, ringfence_of, wireup_of
from .shapes import Shape

__all__ = ["ROUTES"]


def route_of(annotation: Any) -> Any:
    """A new route that says of which class the object is that it was given."""

    async def route(it: Any) -> str:
        return type(it).__name__ + type(it.parts[0]).__name__

    route.__annotations__ = {"it": annotation, "return": str}
    return route


def _app_with(route: Any) -> Any:
    app = importlib.import_module("fastapi").FastAPI(openapi_url=None)
    app.get("/chat")(route)
    return app


def _ringfence(shape: Shape) -> Any:
    middleware = importlib.import_module("ringfence.integrations.asgi").UserContextMiddleware
    identity = Identity(IDS["user_id"])
    app = _app_with(inject(route_of(Injected[shape.wanted])))  # type: ignore[name-defined]
    return middleware(app, fence=ringfence_of(shape), identify=lambda connection: identity)


def _dishka(shape: Shape) -> Any:
    library = importlib.import_module("dishka")
    integration = importlib.import_module("dishka.integrations.fastapi")
    app = _app_with(integration.inject(route_of(library.FromDishka[shape.wanted])))
    integration.setup_dishka(dishka_of(shape), app)
    return app


def _wireup(shape: Shape) -> Any:
    library = importlib.import_module("wireup")
    integration = importlib.import_module("wireup.integration.fastapi")
    app = _app_with(route_of(library.Injected[shape.wanted]))
    integration.setup(wireup_of(shape), app)
    return app


def _fastapi(shape: Shape) -> Any:
    depends = importlib.import_module("fastapi").Depends(fastapi_callables(shape)[shape.wanted])
    return _app_with(route_of(Annotated[shape.wanted, depends]))


def _asked(make: Callable[[Shape], Any], shape: Shape) -> Asking:
    names = {"app": make(shape), "request": REQUEST, "receive": receive, "send": send}
    return Asking("await app(dict(request), receive, send)", names)


ROUTES: dict[str, Callable[[Shape], Asking]] = {
    name: lambda shape, make=make: _asked(make, shape)  # type: ignore[misc]
    for name, make in (
        (OURS, _ringfence),
        ("dishka", _dishka),
        ("wireup", _wireup),
        ("fastapi", _fastapi),
    )
}
