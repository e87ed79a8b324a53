"""
A chat service with an agent that runs its tools in parallel, one user never seeing another's.

    app.py             start here: how routes, middleware and database are joined
    chat.py            POST /agent/chat, GET /agent/messages and GET /notes: JSON
    stream.py          POST /agent/stream: the answer word by word, as server-sent events
    websocket.py       /agent/ws: the same, a scope and a session for each message
    summary.py         /notes/summary: a job that outlives its request
    events.py          /events: what the agents do, told to their own user
    sign_in.py         POST /sign-in: a token for a user and a password
    page.py            /: a page to chat with, and to watch the agents (page.html)

    agent.py           keeps what was said, lets the tools work, and answers
    planner.py         runs two tools and another agent at once, each in a child scope
    pydantic_agent.py  the same by pydantic-ai, with an offline model
    operations.py      the tree of what ran, as the answer carries it
    tools.py           the tools, none of which is told whose request it serves
    language_model.py  stands for a slow model behind a connection

    validation.py      what a request's body may be
    problems.py        errors, as problem+json
    tokens.py          bearer tokens: making and checking them
    users.py           users with passwords, in memory
    tables.py          the three tables
    database.py        SQLite or PostgreSQL, by the address alone

`python -m examples.agent_chat` serves it, `python -m examples.agent_chat.demo` tries it out:

    demo.py            the order of the steps, and how it ends
    steps.py           (a) to (e): two users, and five ways to mix them up
    disconnect.py      (f): clients that vanish in the middle of a stream
    shutdown.py        (g): a server that is stopped at work
    watching.py        (h): two users who watch their agents, and lose the connection
    naive.py           the middleware that everybody writes
    mistakes.py        two mistakes, added to the service as routes
    stage.py           what the steps share
    serving.py         uvicorn on a free port, in this process
    wire.py            HTTP by hand: two requests in one write, a reset in mid-stream
    screen.py          what a terminal shows

`ringfence torture` tries to mix up fifty users of it:

    torture.py         how they behave
"""
