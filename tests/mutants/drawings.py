"""Defects of the drawings of a graph, and of the command that makes them."""

from __future__ import annotations

from .mutant import Mutant, mutant

GRAPH = "tests/injection/test_graph.py"
WRITTEN = "tests/injection/test_written.py"
LAYOUT = "tests/injection/test_layout.py"
PICTURE = "tests/injection/test_picture.py"
COMMAND = "tests/test_cli_graph.py"

MUTANTS: list[Mutant] = [
    mutant(
        "drawings: a quote ends a label of Mermaid's",
        "injection/written.py",
        """    return re.sub(r'["#&;<>`\\\\]',""",
        """    return re.sub(r'[#&;<>`\\\\]',""",
        WRITTEN,
    ),
    mutant(
        "drawings: a quote ends a label of Graphviz's",
        "injection/written.py",
        """.replace('"', '\\\\"')""",
        "",
        WRITTEN,
    ),
    mutant(
        "drawings: what is asked for is drawn as if it asked",
        "injection/written.py",
        "        asked[edge.source].append(edge)\n",
        "        asked[edge.target].append(edge)\n",
        WRITTEN,
    ),
    mutant(
        "drawings: boxes lie over one another",
        "injection/layout.py",
        "        down[i] = max(down[i], down[i - 1] + _apart(stack[i - 1], stack[i]))\n",
        "        down[i] = max(down[i], down[i - 1])\n",
        LAYOUT,
    ),
    mutant(
        "drawings: lines go straight over what is between",
        "injection/layout.py",
        "    line = [source, *(Box(column, BEND) for column in between), target]\n",
        "    line = [source, target]\n",
        LAYOUT,
    ),
    mutant(
        "drawings: what asks for its own lifetime stands in the same column",
        "injection/layout.py",
        "        depths[node_id] = max(above, default=-1) + 1\n",
        "        depths[node_id] = 0\n",
        LAYOUT,
    ),
    mutant(
        "drawings: nobody unties the lines",
        "injection/layout.py",
        "        if crossings < fewest:\n            best, fewest = [list(stack) for stack in stacks], crossings\n",
        "",
        LAYOUT,
    ),
    mutant(
        "drawings: a box is narrower than its name",
        "injection/layout.py",
        "    return math.ceil(letters * LETTER) + 24\n",
        "    return math.ceil(letters * LETTER)\n",
        LAYOUT,
    ),
    mutant(
        "drawings: a picture of nothing has no width",
        "injection/layout.py",
        "max(x - BETWEEN, 0.0) + MARGIN",
        "x - BETWEEN + MARGIN",
        LAYOUT,
    ),
    mutant(
        "drawings: a name ends the picture's markup",
        "injection/picture.py",
        "    said = escape(f",
        "    said = (f",
        PICTURE,
    ),
    mutant(
        "drawings: an arrow that goes back points forward",
        "injection/picture.py",
        "    forward = 1 if source.column < target.column else -1\n",
        "    forward = 1\n",
        PICTURE,
    ),
    mutant(
        "drawings: a refused graph ends as one that was drawn",
        "cli/graph.py",
        "        sys.exit(REFUSED)\n",
        "        sys.exit(0)\n",
        COMMAND,
    ),
    mutant(
        "drawings: what goes wrong in a module is not shown",
        "cli/graph.py",
        "            traceback.print_exc()\n",
        "            pass\n",
        COMMAND,
    ),
    mutant(
        "drawings: who asks for an alias is drawn as asking for what it leads to",
        "injection/graph.py",
        "            if isinstance(entry, Alias) and self",
        "            if False and self",
        GRAPH,
    ),
    mutant(
        "drawings: the line of an alias looks like any other",
        "injection/picture.py",
        '    dashes = DASHES if edge.is_alias else ""\n',
        '    dashes = ""\n',
        PICTURE,
    ),
    mutant(
        "drawings: an alias looks like any other edge of Mermaid's",
        "injection/written.py",
        "'-.->' if edge.is_alias else '-->'",
        "'-->'",
        WRITTEN,
    ),
    mutant(
        "drawings: an alias looks like any other edge of Graphviz's",
        "injection/written.py",
        '(" [style=dashed]" if edge.is_alias else "")',
        '""',
        WRITTEN,
    ),
]
