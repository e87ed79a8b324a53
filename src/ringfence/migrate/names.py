"""What a name means in a file: the old class, one of its instances, a module, a function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import libcst as cst

from . import profile
from .config import Config
from .tree import Tree, dotted, literal

__all__ = ["Meaning", "Names"]

SUCCESSORS = ("ringfence.legacy", "ringfence")
FROM_CLASS = frozenset(
    "from_request from_fastapi_request from_supervisor_style_request from_request_supervisor "
    "create_isolated".split()
)
FROM_CONTEXT = frozenset(
    "create_child_context create_supervisor_style_child_context create_child_context_supervisor "
    "with_db_session with_websocket_connection with_websocket_connection_supervisor".split()
)
_OPENING = frozenset({
    cst.ClassDef, cst.DictComp, cst.FunctionDef, cst.GeneratorExp, cst.Lambda, cst.ListComp,
    cst.SetComp,
})  # fmt: skip
"""Nodes with names of their own."""
_BINDING = frozenset({
    cst.AnnAssign, cst.Assign, cst.AugAssign, cst.ClassDef, cst.CompFor, cst.ExceptHandler,
    cst.For, cst.FunctionDef, cst.Global, cst.ImportAlias, cst.ImportFrom, cst.MatchAs,
    cst.MatchMapping, cst.MatchStar, cst.NamedExpr, cst.Nonlocal, cst.Param, cst.WithItem,
})  # fmt: skip
"""Nodes that give names a value."""


@attrs.frozen
class Meaning:
    """
    What a name stands for.

    Attributes:
        what: `class`, `context`, `module` or `function`.
        module: the dotted module that it, or its class, was imported from.
        name: the name it has there.
        makes_itself: whether it is a subclass with a constructor of its own.
    """

    what: str
    module: str
    name: str = ""
    makes_itself: bool = False

    @property
    def is_factory(self) -> bool:
        """Whether it is of the class with thread ids of its own."""
        return self.module.rpartition(".")[2] == profile.FACTORY


@attrs.frozen(eq=False)
class Binding:
    """One place that gives a name its value: by import, by a value, by an annotation."""

    how: str
    node: cst.CSTNode | None
    scope: Scope
    module: str = ""


@attrs.define(eq=False)
class Scope:
    """One region of names: a module, a class, a function or a comprehension."""

    node: cst.CSTNode
    parent: Scope | None
    bindings: dict[str, list[Binding]] = attrs.field(factory=dict)
    lent: dict[str, Scope] = attrs.field(factory=dict)
    """Names that are bound elsewhere: by `global` and `nonlocal`."""
    attributes: dict[str, list[Binding]] = attrs.field(factory=dict)
    """Of a class: what its methods assign to `self`, and its annotated fields."""

    @property
    def is_class(self) -> bool:
        """Whether functions inside see none of its names."""
        return isinstance(self.node, cst.ClassDef)


class Names:
    """The names of one file. Lives while it is examined."""

    def __init__(self, tree: Tree, config: Config, parts: tuple[str, ...]) -> None:
        self.tree, self.config = tree, config
        self.module, self.package = ".".join(parts), parts[:-1]  # where the file itself is
        self.root = Scope(tree.module, None)
        self.scopes: dict[cst.CSTNode, Scope] = {tree.module: self.root}
        self._asked: set[int] = set()
        for node in tree.nodes[1:]:
            around = self.scopes[tree.parent[node]]
            self.scopes[node] = self._opened(node, around)
        for node in tree.nodes:
            if type(node) in _BINDING:
                self._bind(node)

    def _opened(self, node: cst.CSTNode, around: Scope) -> Scope:
        parent = self.tree.parent[node]
        if type(node) is cst.Decorator and isinstance(parent, (cst.FunctionDef, cst.ClassDef)):
            return self._outside(parent)
        if type(parent) is cst.Param and around.parent is not None:
            around = around.parent  # defaults and annotations belong outside
        if type(node) in _OPENING:
            return Scope(node, around)
        return around

    def _outside(self, node: cst.CSTNode) -> Scope:
        """The scope in which a function or class itself is bound."""
        own = self.scopes[node]
        return own.parent if own.node is node and own.parent is not None else own

    # --- binding ------------------------------------------------------------------------------

    def _bind(self, node: cst.CSTNode) -> None:
        scope = self.scopes[node]
        if isinstance(node, (cst.Global, cst.Nonlocal)):
            self._lend(node, scope)
        elif isinstance(node, cst.ImportFrom):
            self._bind_from(node, scope)
        elif isinstance(node, cst.ImportAlias) and isinstance(self.tree.parent[node], cst.Import):
            name = node.evaluated_name
            bound = node.evaluated_alias or name.partition(".")[0]
            whole = name if node.asname else bound
            self._add(scope, bound, Binding("module", node, scope, whole))
        elif isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            how = "function" if isinstance(node, cst.FunctionDef) else "class"
            outside = self._outside(node)
            self._add(outside, node.name.value, Binding(how, node, outside))
        elif isinstance(node, cst.Param):
            self._bind_param(node, scope)
        else:
            for target, how, value in _bound(node):
                self._bind_target(target, Binding(how, value, scope))

    def _lend(self, node: cst.Global | cst.Nonlocal, scope: Scope) -> None:
        for name in (item.name.value for item in node.names):
            owner: Scope | None = scope.parent if isinstance(node, cst.Nonlocal) else None
            while owner is not None and (owner.is_class or name not in owner.bindings):
                owner = owner.parent
            scope.lent[name] = owner or self.root

    def _bind_from(self, node: cst.ImportFrom, scope: Scope) -> None:
        module = self.absolute(node)
        if isinstance(node.names, cst.ImportStar):
            return
        for alias in node.names:
            bound = alias.evaluated_alias or alias.evaluated_name
            self._add(scope, bound, Binding("import", alias, scope, module))

    def _bind_param(self, node: cst.Param, scope: Scope) -> None:
        outside = scope.parent or scope
        if node.annotation is not None:
            binding = Binding("annotation", node.annotation.annotation, outside)
        else:
            binding = Binding("other", None, outside)
        self._add(scope, node.name.value, binding)

    def _bind_target(self, target: cst.CSTNode, binding: Binding) -> None:
        if isinstance(target, cst.Name):
            self._add(binding.scope, target.value, binding)
            if binding.scope.is_class:
                binding.scope.attributes.setdefault(target.value, []).append(binding)
        elif isinstance(target, cst.Attribute) and dotted(target.value) in ("self", "cls"):
            owner = self._owner(binding.scope)
            if owner is not None:
                owner.attributes.setdefault(target.attr.value, []).append(binding)
        elif isinstance(target, (cst.Tuple, cst.List)):
            for element in target.elements:
                self._bind_target(element.value, attrs.evolve(binding, how="other"))

    def _owner(self, scope: Scope | None) -> Scope | None:
        while scope is not None and not scope.is_class:
            scope = scope.parent
        return scope

    @staticmethod
    def _add(scope: Scope, name: str, binding: Binding) -> None:
        scope.lent.get(name, scope).bindings.setdefault(name, []).append(binding)

    # --- modules ------------------------------------------------------------------------------

    def absolute(self, node: cst.ImportFrom) -> str:
        """The module that a `from` import names, with a relative one resolved by the path."""
        named = dotted(node.module) or ""
        level = len(node.relative)
        if not level:
            return named
        above = self.package[: len(self.package) - level + 1]
        return ".".join([*above, *([named] if named else [])])

    # --- meaning ------------------------------------------------------------------------------

    def of(self, node: cst.CSTNode) -> Meaning | None:
        """What an expression stands for, if that is known."""
        if id(node) in self._asked:
            return None  # it is made of itself
        self._asked.add(id(node))
        try:
            return self._of(node, self.scopes.get(node, self.root))
        finally:
            self._asked.discard(id(node))

    def _of(self, node: cst.CSTNode, scope: Scope) -> Meaning | None:
        if isinstance(node, cst.Name):
            return self._looked_up(node.value, scope)
        if isinstance(node, cst.Attribute):
            return self._of_attribute(node, scope)
        if isinstance(node, cst.Call):
            return self._of_call(node)
        if isinstance(node, cst.Await):
            return self.of(node.expression)
        if isinstance(node, cst.NamedExpr):
            return self.of(node.value)
        if isinstance(node, cst.IfExp):
            return self._agreed([self.of(part) for part in (node.body, node.orelse)
                                 if not _is_none(part)])  # fmt: skip
        if isinstance(node, cst.BooleanOperation):
            return self._agreed([self.of(node.left), self.of(node.right)])
        return None

    def _looked_up(self, name: str, scope: Scope | None, first: bool = True) -> Meaning | None:
        while scope is not None:
            if name in scope.bindings and (first or not scope.is_class):
                return self._agreed([
                    self._bound_to(binding, name)
                    for binding in scope.bindings[name]
                    if not _is_none(binding.node)
                ])  # fmt: skip
            scope, first = scope.parent, False
        return None

    @staticmethod
    def _agreed(meanings: list[Meaning | None]) -> Meaning | None:
        """One meaning, if all of them are of one sort; a name that may be anything has none."""
        if not meanings or any(meaning is None for meaning in meanings):
            return None
        kinds = {(one.what, one.name, one.makes_itself) for one in meanings if one}
        return meanings[0] if len(kinds) == 1 else None

    def _bound_to(self, binding: Binding, name: str) -> Meaning | None:
        node = binding.node
        if binding.how == "import" and isinstance(node, cst.ImportAlias):
            return self._imported(binding.module, node.evaluated_name)
        if binding.how == "module":
            return Meaning("module", binding.module)
        if binding.how == "function" and isinstance(node, cst.FunctionDef):
            return Meaning("function", "", name)
        if binding.how == "class" and isinstance(node, cst.ClassDef):
            return self._derived(node, binding.scope)
        if binding.how == "annotation" and node is not None:
            return self.annotated(node, binding.scope)
        if binding.how == "value" and node is not None:
            return self.of(node)
        return None

    def _derived(self, node: cst.ClassDef, scope: Scope) -> Meaning | None:
        """A subclass of the class is made and used like it."""
        for base in node.bases:
            meaning = self._of(base.value, scope)
            if meaning is not None and meaning.what == "class":
                return attrs.evolve(
                    meaning, makes_itself=meaning.makes_itself or _has_constructor(node)
                )
        return None

    def _imported(self, module: str, name: str) -> Meaning | None:
        whole = f"{module}.{name}"
        if self.config.legacy_names(whole) is not None or whole in SUCCESSORS:
            return Meaning("module", whole)
        if self.config.is_legacy(module, name) or module in SUCCESSORS:
            return self._named(module, name)
        return None

    @staticmethod
    def _named(module: str, name: str) -> Meaning | None:
        what = "class" if name == profile.CLASS else "function"
        return Meaning(what, module, name)

    def _of_attribute(self, node: cst.Attribute, scope: Scope) -> Meaning | None:
        if dotted(node.value) in ("self", "cls"):
            owner = self._owner(scope)
            bindings = owner.attributes.get(node.attr.value, []) if owner else []
            return self._agreed([
                self._bound_to(binding, "")
                for binding in bindings
                if not _is_none(binding.node)
            ])  # fmt: skip
        value = self.of(node.value)
        if value is None or value.what != "module":
            return None
        return self._member(value.module, node.attr.value)

    def _member(self, module: str, name: str) -> Meaning | None:
        if self.config.is_legacy(module, name) or (module in SUCCESSORS and name != "legacy"):
            return self._named(module, name)
        return Meaning("module", f"{module}.{name}")

    def is_annotated_otherwise(self, node: cst.CSTNode) -> bool:
        """Whether a name is annotated as something that is not a context."""
        if not isinstance(node, cst.Name):
            return False
        scope: Scope | None = self.scopes.get(node)
        while scope is not None and node.value not in scope.bindings:
            scope = scope.parent
        return scope is not None and all(
            binding.how == "annotation"
            and (dotted(binding.node) or "Any").rpartition(".")[2] not in ("Any", "object")
            and profile.CLASS not in (dotted(binding.node) or "")
            for binding in scope.bindings[node.value]
        )

    def _of_call(self, node: cst.Call) -> Meaning | None:
        made = self.of(node.func)
        if made is not None and made.what == "class":
            return Meaning("context", made.module)
        if made is not None and made.what == "function":
            return self._returned(made, node)
        if isinstance(node.func, cst.Attribute):
            return self._of_method(node.func)
        if dotted(node.func) == "cast" and len(node.args) == 2:
            return self.annotated(node.args[0].value, self.scopes[node])
        return None

    def _of_method(self, func: cst.Attribute) -> Meaning | None:
        value, name = self.of(func.value), func.attr.value
        if value is None:
            return None
        if (value.what == "class" and name in FROM_CLASS) or (
            value.what == "context" and name in FROM_CONTEXT
        ):
            return Meaning("context", value.module)
        return None

    def _returned(self, function: Meaning, node: cst.Call) -> Meaning | None:
        if function.name in ("validate_user_context", "managed_user_context") and function.module:
            return Meaning("context", function.module)
        scope: Scope | None = self.scopes[node]
        while scope is not None and function.name not in scope.bindings:
            scope = scope.parent
        for binding in scope.bindings[function.name] if scope else []:
            if isinstance(binding.node, cst.FunctionDef) and binding.node.returns is not None:
                return self.annotated(binding.node.returns.annotation, binding.scope)
        return None

    def annotated(self, node: cst.CSTNode, scope: Scope) -> Meaning | None:
        """What something is by its annotation, written as a string or not."""
        text = literal(node)
        if text is not None:
            return self._annotated_by_text(text, scope)
        if isinstance(node, cst.BinaryOperation):  # X | None
            return self._agreed([
                self.annotated(part, scope)
                for part in (node.left, node.right)
                if not _is_none(part)
            ])  # fmt: skip
        if isinstance(node, cst.Subscript):
            return self._annotated_by_subscript(node, scope)
        found = self._of(node, scope)
        return Meaning("context", found.module) if found and found.what == "class" else None

    def _annotated_by_text(self, text: str, scope: Scope) -> Meaning | None:
        try:
            return self.annotated(cst.parse_expression(text.strip()), scope)
        except cst.ParserSyntaxError:
            return None

    def _annotated_by_subscript(self, node: cst.Subscript, scope: Scope) -> Meaning | None:
        outer = (dotted(node.value) or "").rpartition(".")[2]
        if outer not in ("Annotated", "Optional", "Final", "ClassVar", "Union"):
            return None
        parts = [
            element.slice.value for element in node.slice if isinstance(element.slice, cst.Index)
        ]
        chosen = parts if outer == "Union" else parts[:1]
        return self._agreed([self.annotated(p, scope) for p in chosen if not _is_none(p)])


def _has_constructor(node: cst.ClassDef) -> bool:
    return any(
        isinstance(part, cst.FunctionDef) and part.name.value in ("__init__", "__new__")
        for part in node.body.body
    )


def _is_none(node: cst.CSTNode | None) -> bool:
    return isinstance(node, cst.Name) and node.value == "None"


def _bound(node: Any) -> Iterator[tuple[cst.CSTNode, str, cst.CSTNode | None]]:
    """The targets that a node binds, how, and to what."""
    if isinstance(node, cst.Assign):
        for target in node.targets:
            yield target.target, "value", node.value
    elif isinstance(node, cst.AnnAssign):
        yield node.target, "annotation", node.annotation.annotation
    elif isinstance(node, cst.NamedExpr):
        yield node.target, "value", node.value
    elif isinstance(node, cst.WithItem) and node.asname is not None:
        yield node.asname.name, "value", node.item
    elif isinstance(node, (cst.For, cst.CompFor, cst.AugAssign)):
        yield node.target, "other", None
    elif isinstance(node, cst.ExceptHandler) and node.name is not None:
        yield node.name.name, "other", None
    elif isinstance(node, (cst.MatchAs, cst.MatchStar)) and node.name is not None:
        yield node.name, "other", None
    elif isinstance(node, cst.MatchMapping) and node.rest is not None:
        yield node.rest, "other", None
