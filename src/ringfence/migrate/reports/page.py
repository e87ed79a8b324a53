"""The report as one page that a browser shows without asking anybody for anything."""

from __future__ import annotations

from html import escape

from ..findings import FileReport, Finding
from ..profile import ORDER
from ..rules import RULES
from ..scan import Report
from .counts import Row, rows, totals, undecided_keys

__all__ = ["as_page"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --auto: #0a7; --person: #d50;
  --note: #77c; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.5rem }
code { font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere }
tr[id] code { white-space: nowrap }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top }
th { position: sticky; top: 0; background: Canvas } .n { text-align: right }
.sums { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
.sums li { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem }
.sums b { display: block; font-size: 1.6rem } .soft { opacity: .75 }
.automatic { color: var(--auto) } .person { color: var(--person) } .note { color: var(--note) }
details { border-bottom: 1px solid var(--line); padding: .35rem 0 }
summary { cursor: pointer; overflow-wrap: anywhere }
details table { margin: .5rem 0 1rem; background: var(--soft) }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SAYS = {
    "automatic": "are rewritten",
    "person": "need a person",
    "note": "are for review",
}


def as_page(report: Report) -> str:
    """A whole HTML document: counts by rule and priority, files, call sites with their line."""
    name = escape(report.root.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}: what is legacy</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{name}</h1>\n"
        f"<p class=soft>{report.seen} files seen, {len(report.files)} use the old vocabulary</p>\n"
        f"{_sums(report)}\n{_keys(report)}\n<h2>By rule</h2>\n{_rules(rows(report))}\n"
        f"<h2>By file</h2>\n{_files(report)}\n</body></html>\n"
    )


def _sums(report: Report) -> str:
    items = (
        f"<li><b class={kind}>{count}</b>{SAYS[kind]}</li>"
        for kind, count in totals(report).items()
    )
    return f"<ul class=sums>{''.join(items)}</ul>"


def _keys(report: Report) -> str:
    keys = undecided_keys(report)
    if not keys:
        return ""
    rest = "".join(f"<tr><td><code>{escape(key)}</code><td class=n>{count}" for key, count in keys)
    return (
        "<h2>Keys to decide</h2><p>Each key of the old <code>metadata</code> belongs to one "
        "dictionary. Put these into <code>agent-keys</code> or <code>audit-keys</code>.</p>"
        f"<table><tr><th>key<th class=n>uses{rest}</table>"
    )


def _rules(found: list[Row]) -> str:
    heads = "".join(f"<th class=n>{priority}" for priority in ORDER)
    body = "".join(_rule(row) for row in found)
    return f"<table><tr><th>rule<th>finds{heads}<th class=n>all{body}</table>"


def _rule(row: Row) -> str:
    counts = "".join(f"<td class=n>{row.by_priority[name] or '·'}" for name in ORDER)
    return (
        f"<tr id={row.code}><td><code>{row.code}</code><td>{escape(row.title)}"
        f"<br><span class=soft>{escape(row.does)}</span>{counts}<td class=n><b>{row.count}</b>"
    )


def _files(report: Report) -> str:
    return "\n".join(
        f"<h3>{priority}</h3>\n" + "\n".join(_file(file) for file in files)
        for priority in ORDER
        if (files := [file for file in report.files if file.priority == priority])
    )


def _file(file: FileReport) -> str:
    body = "".join(_site(finding) for finding in file.findings)
    return (
        f"<details><summary><code>{escape(file.path)}</code> "
        f"<b>{len(file.findings)}</b></summary>"
        f"<table><tr><th class=n>line<th>rule<th>what<th>who{body}</table></details>"
    )


def _site(finding: Finding) -> str:
    reason = f"<br><span class=soft>{escape(finding.reason)}</span>" if finding.reason else ""
    title = escape(RULES[finding.code].title, quote=True)
    return (
        f'<tr><td class=n>{finding.line}<td><a href="#{finding.code}" title="{title}">'
        f"{finding.code}</a><td><code>{escape(finding.text)}</code>{reason}"
        f"<td class={finding.kind}>{finding.kind}"
    )
