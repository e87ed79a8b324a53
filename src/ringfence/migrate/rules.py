"""Every rule: what it finds, in which phase it is dealt with, and who deals with it."""

from __future__ import annotations

import attrs

__all__ = ["Rule"]

PHASES = ("imports", "calls", "removal")
"""In this order; what belongs to a phase is gone when its rewriting has nothing left to say."""
AUTOMATIC, PERSON, NOTE = "automatic", "person", "note"


@attrs.frozen
class Rule:
    """
    One pattern of the old vocabulary.

    Attributes:
        code: its stable name, such as `RM101`.
        phase: the phase of the migration that deals with it.
        title: what it finds.
        does: what a rewriting makes of it, or why it needs a person.
        is_note: it is for review only, and keeps no `verify` from passing.
    """

    code: str
    phase: str
    title: str
    does: str
    is_note: bool = False

    @property
    def why(self) -> str:
        """Why it needs a person, or is for review; empty where a rewriting decides it."""
        for beginning in ("needs a person: ", "for review: "):
            if self.does.startswith(beginning):
                return self.does.removeprefix(beginning)
        return ""


def _rule(code: str, title: str, does: str, is_note: bool = False) -> Rule:
    phase = "imports" if code < "RM110" else "calls" if code < "RM900" else "imports"
    return Rule(code, "removal" if code.startswith("RM12") else phase, title, does, is_note)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        # --- imports
        _rule("RM101", "`from` import of an old module", "moves to ringfence.legacy"),
        _rule("RM102", "`import` of an old module", "moves to ringfence.legacy, with its uses"),
        _rule("RM103", "an old module imported from its package", "from ringfence import legacy"),
        _rule("RM104", "dotted path of an old module in a string", "moves, where it is a target "
              "of patch, importlib or pytest's monkeypatch; elsewhere a person has to say what "
              "reads the string"),
        _rule("RM105", "star import of an old module", "needs a person: which names the file "
              "takes from it is not written anywhere"),
        _rule("RM106", "a name that ringfence.legacy does not have", "needs a person: it has no "
              "successor by that name"),
        _rule("RM107", "the class, from a module that is not configured", "needs a person: add "
              "the module to the configuration, or import from ringfence"),
        _rule("RM108", "two imports of ringfence.legacy in one block", "become one"),
        # --- the last phase
        _rule("RM121", "import of ringfence.legacy", "moves to ringfence, once nothing of the old "
              "vocabulary is left in the tree"),
        _rule("RM122", "an old module, or an old class in one that stays", "needs a person: delete "
              "it when nothing uses it"),
        # --- constructors and factories
        _rule("RM201", "websocket_connection_id=", "websocket_client_id="),
        _rule("RM202", "metadata=", "agent_context= and audit_metadata=, where the keys of the "
              "literal decide it"),
        _rule("RM203", "session_id=", "agent_context={'session_id': ...}"),
        _rule("RM204", "a context without run_id", "needs a person: a run id cannot be invented"),
        _rule("RM205", "a context made with * or **", "needs a person: what arrives is known only "
              "when it runs"),
        _rule("RM206", "an argument that no class has", "needs a person: put it into "
              "agent_context, or leave it out"),
        _rule("RM207", "a fourth positional argument", "needs a person: it was the request id in "
              "one class and the session in the other"),
        _rule("RM208", "supervisor-style request factory", "from_request"),
        _rule("RM209", "additions of a child as metadata", "additional_agent_context= and "
              "additional_audit_metadata=, where the keys of the literal decide it"),
        _rule("RM210", "supervisor-style child factory", "create_child_context"),
        _rule("RM211", "a child of the execution factory's class", "needs a person: it had thread "
              "and request ids of its own, a child keeps the thread"),
        _rule("RM212", "with_websocket_connection_supervisor", "with_websocket_connection"),
        _rule("RM213", "clear_shared_objects", "clear_shared_object_registry"),
        _rule("RM214", "an audited key in agent_context=", "needs a person: the configuration has "
              "it in audit-keys, where it is looked for"),
        # --- attributes
        _rule("RM301", "websocket_connection_id read", "websocket_client_id"),
        _rule("RM302", "an old name in getattr, hasattr or setattr", "the new name in getattr and "
              "hasattr; whether there is metadata needs a person"),
        _rule("RM303", "a key of metadata read", "agent_context, audit_metadata or the field, "
              "where the key decides it"),
        _rule("RM304", "metadata as a whole", "needs a person: it is two dictionaries now"),
        _rule("RM305", "a key of metadata written", "agent_context or audit_metadata, where the "
              "key decides it"),
        _rule("RM306", "metadata assigned", "needs a person: make another context"),
        _rule("RM307", "session_id read or written", "agent_context.get('session_id'); writing "
              "needs a person"),
        _rule("RM308", "run accounting of the execution factory's class", "needs a person: agents "
              "keep their own runs"),
        _rule("RM309", "an identity assigned", "needs a person: contexts are immutable"),
        _rule("RM310", "object.__setattr__ on a context", "needs a person: contexts are immutable"),
        _rule("RM311", "a context as a dataclass", "needs a person: `replace` raises, because it "
              "would swap a user in one line; for `asdict` and `fields` there is to_dict()"),
        _rule("RM312", "isinstance of the class", "for review: an instance of ringfence's class "
              "is none of ringfence.legacy's", True),
        _rule("RM313", "to_execution_context", "needs a person: there is one class now"),
        # --- the laws
        _rule("RM401", "a task begun where a context is bound", "for review: a task that outlives "
              "its scope is refused (law 3); ringfence.task_group or detach", True),
        _rule("RM402", "a context in a generator", "for review: a block in a generator raises, "
              "and one that outlives its scope is refused (laws 3 and 6); bound_stream", True),
        # --- files
        _rule("RM901", "a file that cannot be parsed", "needs a person: Python 2, or a syntax "
              "error"),
        _rule("RM902", "a file that cannot be read", "needs a person: permissions, encoding, or "
              "no text"),
        _rule("RM903", "a file that cannot be rewritten faithfully", "needs a person: the parser "
              "loses a character of it"),
        _rule("RM904", "a rewriting that went wrong", "the file is left as it was: please report "
              "it"),
    )
}  # fmt: skip
"""Every rule by its code."""
