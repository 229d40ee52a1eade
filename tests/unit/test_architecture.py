"""The architecture's rules, read from the sources: import arrows, cycles, key names, scripts.

Nothing is imported except for the public names, so that a rule is judged even where a module
can't be imported. `LAYERS` and `FORBIDDEN` below are the map; whoever adds a module places it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pressure"
LUA = PACKAGE / "lua"

# From the bottom up: a module imports from its own layer and from those above it in this list.
# Patterns are module names without the leading "pressure."; the first match counts.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "foundations",
        (
            "_version",
            "errors",
            "keys",
            "envelope",
            "python_versions",
            "codec",
            "serializers",
            "signing",
            "pulse",
            "address",
            "nodes",
            "sentinel",
            "cluster",
            "retry",
            "arguments",
            "settings",
            "content",
            "copying",
            "collecting",
            "condition",
        ),
    ),
    ("scripts", ("scripts",)),
    ("protocol", ("commands", "protocol")),
    ("server", ("server", "server.*")),
    (
        "flows",
        (
            "requests",
            "session",
            "opened",
            "core",
            "bundles",
            "packing",
            "wire",
            "greeting",
            "link",
            "driver",
            "blobs",
            "recovering",
            "flows",
            "lifecycle",
            "upkeep",
            "putting",
            "taking",
            "reading",
            "items",
            "parcels",
            "exchanging",
            "replication",
        ),
    ),
    (
        "handles",
        (
            "keeper",
            "control",
            "sessions",
            "handle",
            "lease",
            "letters",
            "pace",
            "encoding",
            "prefetch",
            "stats",
            "taker",
            "tending",
            "credentials",
            "checks",
            "seconds",
        ),
    ),
    ("queue", ("queue", "queue_*", "aio", "aio.*")),
    ("channel", ("channel", "channel.*")),
    ("executor", ("executor", "executor.*")),
    ("shims", ("multiprocessing", "multiprocessing.*", "joblib")),
    ("surface", ("cli", "cli.*", "__init__", "__main__")),
)

# Arrows that the layers would allow and that are wrong all the same: (importer, imported).
FORBIDDEN: tuple[tuple[str, str], ...] = (
    ("executor.client.*", "executor.worker.*"),
    ("executor.worker.*", "executor.client.*"),
    ("executor.worker.*", "executor.supervision.*"),
    ("executor.supervision.*", "executor.client.*"),
    # The executor uses the queue's public operations and adds no second transport.
    ("executor.*", "protocol"),
    ("executor.*", "scripts"),
    ("executor.*", "session"),
    ("executor.*", "link"),
    ("executor.*", "flows"),
)

# (importer, imported): imports inside functions that have a reason other than a cycle.
FUNCTION_IMPORTS: frozenset[tuple[str, str]] = frozenset(
    {
        # Only in a child that execs at once: the watcher itself stays small without it.
        ("server.watcher", "ctypes"),
    }
)

MAX_LINES = 400
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "misc", "common"})

# Lua files that hold shared code and are no operation themselves.
PRELUDES = frozenset({"prelude"})

PUBLIC_NAMES: frozenset[str] = frozenset(
    {
        "DeadLetter",
        "ExecutorStats",
        "InitializerError",
        "ItemTooLargeError",
        "Lease",
        "LeaseLostError",
        "NotReplicatedError",
        "LocalServer",
        "NestingError",
        "NoWorkersError",
        "OperationUnblocked",
        "Options",
        "OptionsView",
        "OutcomeUnknownError",
        "PayloadError",
        "PressureError",
        "PressureQueue",
        "QueueAlreadyExistsError",
        "QueueClosedError",
        "QueueDoesNotExistError",
        "QueueEmptyError",
        "QueueError",
        "QueueFullError",
        "QueueInUseError",
        "QueueStats",
        "RedisExecutor",
        "ResultPayloadError",
        "ServerError",
        "ServerNotFoundError",
        "ServerOutOfMemoryError",
        "ServerRefusedError",
        "ServerStartError",
        "ServerUnavailableError",
        "Settings",
        "Shared",
        "ShutDown",
        "SignatureError",
        "TaskError",
        "TaskFuture",
        "TaskLostError",
        "TaskPayloadError",
        "TaskTerminatedError",
        "TaskTimeoutError",
        "WorkerLostError",
        "__version__",
        "current_executor",
        "local_server",
        "register_by_value",
    }
)


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    in_function: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported} (line {self.line})"


def module_name(path: Path) -> str:
    """`aio/queue.py` is "aio.queue", and a package's `__init__` the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8"), path.name) for name, path in SOURCES.items()}


def imports_of(name: str) -> Iterator[Import]:
    """The imports of `pressure`'s own modules and, inside functions, of any module."""
    yield from _imports_below(name, TREES[name], in_function=False, for_types_only=False)


def _imports_below(
    name: str, node: ast.AST, *, in_function: bool, for_types_only: bool
) -> Iterator[Import]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        in_function = True
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for_types_only = True
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for target in _targets(name, node):
            imported = _own_module(target)
            if imported is not None or in_function:
                yield Import(name, imported or target, node.lineno, in_function, for_types_only)
    for child in ast.iter_child_nodes(node):
        yield from _imports_below(
            name, child, in_function=in_function, for_types_only=for_types_only
        )


def _targets(name: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    """The imported modules' full names; a `from` import may name modules or what is in them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    origin = node.module or ""
    if node.level:
        package = ["pressure", *name.split(".")] if name != "__init__" else ["pressure", ""]
        if SOURCES[name].name == "__init__.py" and name != "__init__":
            package.append("")
        origin = ".".join([*package[: len(package) - node.level], *filter(None, [origin])])
    return [f"{origin}.{alias.name}" for alias in node.names]


def _own_module(target: str) -> str | None:
    """The module of this package that `target` (a module, or a name in one) lies in."""
    top, *parts = target.split(".")
    if top != "pressure":
        return None
    while parts:
        if ".".join(parts) in SOURCES:
            return ".".join(parts)
        parts.pop()
    return "__init__"


def layer_of(name: str) -> int | None:
    for position, (_, patterns) in enumerate(LAYERS):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return position
    return None


ALL_IMPORTS = [found for name in SOURCES for found in imports_of(name)]
OWN_IMPORTS = [found for found in ALL_IMPORTS if found.imported in SOURCES]


def test_there_are_modules_to_judge() -> None:
    """Guards the other tests: they would all pass on an empty list."""
    assert {"__init__", "errors", "keys"} <= set(SOURCES)
    assert OWN_IMPORTS


def test_every_module_has_a_layer() -> None:
    unplaced = [name for name in SOURCES if layer_of(name) is None]
    assert not unplaced, f"place these modules in LAYERS of {Path(__file__).name}: {unplaced}"


def test_imports_point_downwards() -> None:
    wrong = [
        f"{found}: {LAYERS[low][0]} must not know {LAYERS[high][0]}"
        for found in OWN_IMPORTS
        if (low := layer_of(found.importer)) is not None
        and (high := layer_of(found.imported)) is not None
        and low < high
    ]
    assert not wrong, "\n".join(wrong)


def test_no_forbidden_imports() -> None:
    wrong = [
        str(found)
        for found in OWN_IMPORTS
        for importer, imported in FORBIDDEN
        if fnmatchcase(found.importer, importer) and fnmatchcase(found.imported, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for found in OWN_IMPORTS:
        if not found.for_types_only and found.importer != found.imported:
            graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail("import cycle: " + " <- ".join(exc.args[1]))


def test_no_imports_inside_functions() -> None:
    hidden = [found for found in ALL_IMPORTS if found.in_function]
    wrong = [str(found) for found in hidden if (found[0], found[1]) not in FUNCTION_IMPORTS]
    assert not wrong, "\n".join(wrong)
    unused = FUNCTION_IMPORTS - {(found.importer, found.imported) for found in hidden}
    assert not unused, f"no longer needed in FUNCTION_IMPORTS: {sorted(unused)}"


def test_modules_have_one_job() -> None:
    long = {
        name: lines
        for name, path in SOURCES.items()
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"more than {MAX_LINES} lines: {long}"
    vague = [name for name in SOURCES if name.rpartition(".")[2] in VAGUE_NAMES]
    assert not vague, f"name these after their job: {vague}"


def key_suffixes() -> set[str]:
    """All that follows a colon in the names that keys.py builds."""
    words = {text.strip(":") for _, text in string_literals(TREES["keys"])}
    return {word for word in words if re.fullmatch(r"[a-z_]+(:[a-z_]+)*", word)}


def string_literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is not a docstring, the parts of f-strings included."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")


def test_only_keys_builds_key_names() -> None:
    suffixes = key_suffixes()
    assert {"bound", "not_full", "closed", "taken"} <= suffixes, "keys.py was not understood"
    pattern = re.compile(rf"\S*:({'|'.join(sorted(suffixes, reverse=True))})(:\S*)?")
    wrong = [
        f"{name} builds the key {text!r} (line {line})"
        for name, tree in TREES.items()
        if name != "keys"
        for line, text in string_literals(tree)
        if pattern.fullmatch(text)
    ]
    for path in sorted(LUA.rglob("*.lua")):
        code = re.sub(r"--.*", "", path.read_text("utf-8"))
        texts = [single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", code)]
        wrong += [f"{path.name} builds the key {t!r}" for t in texts if pattern.fullmatch(t)]
    assert not wrong, "\n".join(wrong)


def test_public_names() -> None:
    pressure = importlib.import_module("pressure")
    names = pressure.__all__
    assert len(names) == len(set(names)), "__all__ names something twice"
    assert set(names) == PUBLIC_NAMES
    assert [name for name in names if not hasattr(pressure, name)] == []


def operations() -> dict[str, Path]:
    return {path.stem: path for path in sorted(LUA.rglob("*.lua")) if path.stem not in PRELUDES}


def test_script_headers_name_their_keys_and_arguments() -> None:
    """The header's KEYS are the ones that the script binds, in the same order."""
    assert operations(), f"no scripts in {LUA}"
    wrong = []
    for name, path in operations().items():
        source = path.read_text("utf-8")
        comment = re.match(r"(?:#!.*\n)?((?:--.*\n)*)", source)
        header = comment[1] if comment else ""
        keys = re.search(r"^-- KEYS\b(.*)$", header, re.MULTILINE)
        if keys is None:
            wrong.append(f"{name}.lua: no line '-- KEYS ...' in its header")
        elif bound := re.search(r"^local ([\w\s,]+?)\s*=\s*unpack\(KEYS\)", source, re.MULTILINE):
            # What may be repeated (name...) or is described in parentheses has no fixed place.
            fixed = re.sub(r"\(.*?\)|\S*\.\.\.", "", keys[1]).split()
            if fixed != re.findall(r"\w+", bound[1]):
                wrong.append(f"{name}.lua: its header's KEYS are not those that it unpacks")
        if not re.search(r"^-- ARGV\b", header, re.MULTILINE):
            wrong.append(f"{name}.lua: no line '-- ARGV ...' in its header")
    assert not wrong, "\n".join(wrong)


def test_each_script_has_its_method_and_its_section() -> None:
    methods = {
        node.name
        for module, tree in TREES.items()
        if fnmatchcase(module, "protocol") or fnmatchcase(module, "protocol.*")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    document = (ROOT / "protocol.md").read_text("utf-8")
    sections = set(re.findall(r"^#{2,4} +`?(\w+)", document, re.MULTILINE))
    wrong = [
        f"{name}.lua: no method in protocol.py" for name in operations() if name not in methods
    ]
    wrong += [
        f"{name}.lua: no section in protocol.md" for name in operations() if name not in sections
    ]
    # A document that still describes a script which is gone misleads as much.
    named = set(re.findall(r"\blua/(?:\w+/)*(\w+)\.lua", document))
    wrong += [
        f"protocol.md: there is no {name}.lua" for name in named - set(operations()) - PRELUDES
    ]
    assert not wrong, "\n".join(sorted(wrong))
