"""
A chat service with an agent that runs its tools in parallel, one user never seeing another's.

    app.py         the routes, the middleware and the database: how the parts are joined
    validation.py  what a request's body may be
    planner.py     the agent: runs three tools at once, each in a child scope
    tools.py       the tools, none of which is told whose request it serves
    models.py      the two tables
    tokens.py      bearer tokens: making and checking them

`python -m examples.agent_chat` serves it, `python -m examples.agent_chat.demo` tries it out:

    demo.py        the order of the steps, and how it ends
    steps.py       the steps, each of which can fail
    naive.py       the middleware that everybody writes
    mistakes.py    two mistakes, added to the service as routes
    serving.py     uvicorn on a free port, in this process
    wire.py        HTTP requests by hand, so that two can share one write
    screen.py      what a terminal shows
"""
