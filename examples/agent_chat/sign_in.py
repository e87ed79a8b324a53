"""`POST /sign-in`: a bearer token for a user and a password. It belongs to nobody."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from .tokens import HOUR, issue
from .users import Users

PATH = "/sign-in"

Short = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Credentials(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user: Short
    password: Short


class SignedIn(BaseModel):
    user_id: str
    name: str
    token: str
    seconds: int


def router_of(users: Users, key: str) -> APIRouter:
    router = APIRouter()

    @router.post(PATH)
    async def sign_in(given: Credentials, response: Response) -> SignedIn:
        user = await users.find(given.user, given.password)
        if user is None:
            raise HTTPException(401, "The user or the password is wrong.")
        response.headers["cache-control"] = "no-store"
        token = issue(key, user.user_id, HOUR)
        return SignedIn(user_id=user.user_id, name=user.name, token=token, seconds=HOUR)

    return router
