"""
How the users of our application behave, for `ringfence torture`.

    ringfence torture ringfence.testing.torture.example:app --scenario torture_scenario.py

runs it as it is, against a small example that comes with ringfence: notes, each user's own.
Change it to what your application is asked, and name yours instead. In pytest:

    from ringfence.testing.torture import torture

    def test_nobody_sees_anothers_data():
        torture("app:app", "torture_scenario.py", users=20, requests=500).assert_clean()
"""

from __future__ import annotations

from collections.abc import Iterator

from ringfence.testing.torture import Request, WebSocket


class Scenario:
    """Who they are, and what they ask."""

    # Requests that read (GET) are also sent without a login, and must bring nobody's data.
    # Say False if your application shows users' data to everybody.
    anonymous = True

    async def login(self, n: int) -> dict[str, str]:
        """
        The headers that user number `n` sends with each request.

        With a parameter `send`, it can ask the application for them, and with `canary` name the
        user after it:

            async def login(self, n, canary, send):
                answer = await send(Request("POST", "/login", body={"name": canary}))
                return {"authorization": f"Bearer {answer.json()['token']}"}
        """
        return {"authorization": f"Bearer user-{n}"}

    def requests(self, n: int, canary: str) -> Iterator[Request | WebSocket]:
        """
        What user `n` does in one round; called anew for each.

        `canary` is a word that only this user has. Put it wherever the user's own data go: into
        bodies, queries, messages. Whoever else gets to see it has found a leak.
        """
        # `body` is bytes, text, or what becomes JSON. JSON is also sent as a body of more than
        # 64 KiB, with blanks at its end.
        yield Request("POST", "/notes", body={"text": f"remember {canary}"})

        # `echoes`: the answer must contain the canary, or it was not this user's.
        yield Request("GET", "/notes", echoes=True)

        # Another status than one below 400 must be expected, or it is reported.
        yield Request("GET", f"/notes/{canary}", expect=404)

        # An answer that comes in pieces.
        yield Request("GET", "/stream")

        # A message, answered by others until one of them contains `done`.
        yield WebSocket("/ws", [f"hello from {canary}"], until="done")

    # If there is a database: what it holds, each row's owner by number, and the row as text.
    #
    # def rows(self):
    #     with sqlite3.connect("app.db") as connection:
    #         for owner, text in connection.execute("select user_id, text from notes"):
    #             yield int(owner.removeprefix("user-")), text


scenario = Scenario()
