"""Reading texts out of Python source, as far as they stand there.

``Sources.calls`` finds the calls that are asked for, and ``Sources.texts`` what an argument can be: a
constant, the branches of a choice, a name that was given a text in the function, by the module, or by whoever calls the
function, and a row of a table that is unpacked into names. What is only known when the program runs is "…".
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

UNKNOWN = "…"
DEPTH = 8  # of names that stand for names
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where an expression stands: in the call ``at``. ``given`` are names that others decide: arguments, rows of a
    table."""

    module: Module
    function: Function | None = None
    at: ast.Call | None = None
    given: Mapping[str, tuple[ast.expr, Scope]] = dataclasses.field(default_factory=dict)


class Module:
    """One file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.tree = ast.parse(path.read_text())
        self.values = {name: value for _, name, value in _assignments(self.tree.body)}
        self.imported = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.blocks: dict[int, tuple[int, ...]] = {}
        self._place(self.tree, ())
        functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]
        self.calls: list[tuple[Function | None, ast.Call]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                around = [one for one in functions if one.lineno <= node.lineno <= (one.end_lineno or 0)]
                self.calls.append((max(around, key=lambda one: one.lineno, default=None), node))

    def _place(self, node: ast.AST, blocks: tuple[int, ...]) -> None:
        """Note, for each node below, the lists of statements that it is in."""
        self.blocks[id(node)] = blocks
        for _, value in ast.iter_fields(node):
            within = blocks
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    leaves = isinstance(value[-1], ast.Return | ast.Raise | ast.Continue)
                    within = (*blocks, -id(value) if leaves else id(value))
                for one in value:
                    if isinstance(one, ast.AST):
                        self._place(one, within)
            elif isinstance(value, ast.AST):
                self._place(value, within)

    def reaching(self, function: Function, name: str, call: ast.Call | None) -> list[ast.expr]:
        """What a name of the function can be where it is called: the assignments before the call, back to the one that
        is always passed; none of a branch that left before."""
        found = [(node, value) for node, other, value in _assignments(ast.walk(function)) if other == name]
        if call is None:
            return [value for _, value in found]
        around, reached = self.blocks[id(call)], []
        for node, value in sorted(found, key=lambda pair: -pair[0].lineno):
            blocks = self.blocks[id(node)]
            is_passed = blocks == around[: len(blocks)]
            if node.lineno >= call.lineno or (blocks[-1] < 0 and not is_passed):
                continue
            reached.append(value)
            if is_passed:
                break
        return reached[::-1]


class Sources:
    """All files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.modules: dict[str, Module] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(path, name)

    def calls(self, is_wanted: Callable[[ast.Call, Module], bool]) -> Iterator[tuple[ast.Call, Scope]]:
        """Every call that is wanted, once for each way in which its names can be given."""
        for module in self.modules.values():
            for function, call in module.calls:
                if is_wanted(call, module):
                    for scope in self._scopes(module, function, call):
                        yield call, scope

    def class_of(self, name: str, module: Module) -> tuple[ast.ClassDef, Module] | None:
        """The class that a name stands for in a module, and the module that it is in; None for anything else."""
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node, module
        there, original = module.imported.get(name, ("", ""))
        return self.class_of(original, self.modules[there]) if there in self.modules else None

    def _scopes(self, module: Module, function: Function | None, call: ast.Call) -> Iterator[Scope]:
        if function is None:
            yield Scope(module, None, call)
            return
        used = _names(call) | {
            name for one in _names(call) for value in _local(function, one) for name in _names(value)
        }
        rows = [given for given in self._rows(module, function) if used & given.keys()] or [{}]
        callers: list[dict[str, tuple[ast.expr, Scope]]] = [{}]
        parameters = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        if used & set(parameters) and (found := list(self._callers(module, function, parameters))):
            callers = found
        for row, arguments in itertools.product(rows, callers):
            yield Scope(module, function, call, {**arguments, **row})

    def _callers(
        self, module: Module, function: Function, parameters: list[str]
    ) -> Iterator[dict[str, tuple[ast.expr, Scope]]]:
        """The arguments of each call of a function, in its module or where it is imported."""
        bound = parameters[1:] if parameters[:1] in (["self"], ["cls"]) else parameters
        for other in self.modules.values():
            is_here = other is module or other.imported.get(function.name) == (module.name, function.name)
            for caller, call in other.calls if is_here else ():
                if called(call) == function.name and caller is not function:
                    scope = Scope(other, caller, call)
                    given = {name: (value, scope) for name, value in zip(bound, call.args, strict=False)}
                    given |= {word.arg: (word.value, scope) for word in call.keywords if word.arg}
                    yield given

    def _rows(self, module: Module, function: Function) -> Iterator[dict[str, tuple[ast.expr, Scope]]]:
        """The rows of the module's tables that the function unpacks into names."""
        for node in ast.walk(function):
            if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple):
                target, value = node.target, node.iter
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                target, value = node.targets[0], node.value
            else:
                continue
            if isinstance(value, ast.Tuple):
                continue  # that is a plain assignment
            tables = [module.values[name] for name in self._reached(function, value) if name in module.values]
            names = next(
                (one for one in _tuples(target) if not any(isinstance(sub, ast.Tuple) for sub in one.elts)), target
            )
            for row in (row for table in tables for row in _tuples(table) if len(row.elts) == len(names.elts)):
                yield {
                    name.id: (cell, Scope(module))
                    for name, cell in zip(names.elts, row.elts, strict=True)
                    if isinstance(name, ast.Name)
                }

    @staticmethod
    def _reached(function: Function, value: ast.expr) -> set[str]:
        names = _names(value)
        return names | {other for name in names for one in _local(function, name) for other in _names(one)}

    def texts(self, node: ast.expr | None, scope: Scope, depth: int = 0) -> list[str]:
        """What a text can be; "…" stands for what is not known before the program runs."""
        if depth > DEPTH:
            return [UNKNOWN]
        match node:
            case None:
                return [""]
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                every = [self.texts(part, scope, depth + 1) for part in parts]
                return ["".join(chosen) for chosen in itertools.islice(itertools.product(*every), 4)]
            case ast.FormattedValue(value=ast.Name() as name):
                texts = self.texts(name, scope, depth + 1)
                is_word = all(text != UNKNOWN and " " not in text for text in texts)
                return texts if name.id.isupper() or is_word else [UNKNOWN]
            case ast.IfExp(body=body, orelse=other):
                return [*self.texts(body, scope, depth + 1), *self.texts(other, scope, depth + 1)]
            case ast.BoolOp(op=ast.Or(), values=values):
                return [text for value in values for text in self.texts(value, scope, depth + 1)]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                sides = self.texts(left, scope, depth + 1), self.texts(right, scope, depth + 1)
                return [one + other for one, other in itertools.islice(itertools.product(*sides), 4)]
            case ast.Call(func=ast.Attribute(value=ast.Dict(values=values), attr="get"), args=[_, *default]):
                return [text for value in [*values, *default] for text in self.texts(value, scope, depth + 1)]
            case ast.Name(id=name):
                return self._named(name, scope, depth + 1)
        return [UNKNOWN]

    def _named(self, name: str, scope: Scope, depth: int) -> list[str]:
        if name in scope.given:
            value, there = scope.given[name]
            return self.texts(value, there, depth)
        if scope.function is not None and (values := scope.module.reaching(scope.function, name, scope.at)):
            return [text for value in values for text in self.texts(value, scope, depth)]
        if name in scope.module.values:
            return self.texts(scope.module.values[name], Scope(scope.module), depth)
        module, original = scope.module.imported.get(name, ("", ""))
        if module in self.modules and original in self.modules[module].values:
            other = self.modules[module]
            return self.texts(other.values[original], Scope(other), depth)
        return [UNKNOWN]


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def argument(call: ast.Call, number: int, name: str) -> ast.expr | None:
    """An argument by its place or its name; a negative place has a name only."""
    by_name = next((word.value for word in call.keywords if word.arg == name), None)
    return call.args[number] if by_name is None and 0 <= number < len(call.args) else by_name


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _tuples(node: ast.AST) -> list[ast.Tuple]:
    return [one for one in ast.walk(node) if isinstance(one, ast.Tuple)]


def _local(function: Function, name: str) -> list[ast.expr]:
    return [value for _, other, value in _assignments(ast.walk(function)) if other == name]


def _assignments(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[tuple[ast.stmt, str, ast.expr]]:
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield node, name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield node, name, value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if len(names) == len(values):
                for one, value in zip(names, values, strict=True):
                    if isinstance(one, ast.Name):
                        yield node, one.id, value
