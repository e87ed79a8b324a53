"""
A chat service with an agent that runs its tools in parallel, one user never seeing another's.

    app.py             start here: how routes, middleware and database are joined
    chat.py            POST /agent/chat and GET /notes: JSON
    stream.py          POST /agent/stream: the answer word by word, as server-sent events
    websocket.py       /agent/ws: the same, a scope and a session for each message
    summary.py         /notes/summary: a job that outlives its request
    page.py            /: a page to try it with (page.html)

    agent.py           keeps what was said, lets the tools work, and answers
    planner.py         runs three tools at once, each in a child scope
    tools.py           the tools, none of which is told whose request it serves
    language_model.py  stands for a slow model behind a connection

    validation.py      what a request's body may be
    problems.py        errors, as problem+json
    tokens.py          bearer tokens: making and checking them
    tables.py          the three tables
    database.py        SQLite or PostgreSQL, by the address alone

`python -m examples.agent_chat` serves it, `python -m examples.agent_chat.demo` tries it out:

    demo.py            the order of the steps, and how it ends
    steps.py           (a) to (e): two users, and five ways to mix them up
    disconnect.py      (f): clients that vanish in the middle of a stream
    shutdown.py        (g): a server that is stopped at work
    naive.py           the middleware that everybody writes
    mistakes.py        two mistakes, added to the service as routes
    stage.py           what the steps share
    serving.py         uvicorn on a free port, in this process
    wire.py            HTTP by hand: two requests in one write, a reset in mid-stream
    screen.py          what a terminal shows

`ringfence torture` tries to mix up fifty users of it:

    torture.py         how they behave
"""
