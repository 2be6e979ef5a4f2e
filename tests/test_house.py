"""The rules of the house for code in `app/`: each takes a source text and returns the lines that break it."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "app").rglob("*.py"))

BLOCKING = {
    "open",
    "input",
    "time.sleep",
    "os.listdir",
    "os.remove",
    "os.rename",
    "os.replace",
    "os.system",
    "os.unlink",
    "shutil.copyfileobj",
    "shutil.rmtree",
    "socket.create_connection",
    "sqlite3.connect",
    "tempfile.NamedTemporaryFile",
    "tempfile.TemporaryFile",
    "urllib.request.urlopen",
}
BLOCKING_MODULES = {"requests", "smtplib", "subprocess"}
BLOCKING_METHODS = {
    "glob",
    "iterdir",
    "mkdir",
    "read_bytes",
    "read_text",
    "rename",
    "rglob",
    "rmdir",
    "stat",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTATING_METHODS = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}
AT_IMPORT = {
    "connect",
    "create_engine",
    "create_async_engine",
    "getenv",
    "mkdir",
    "open",
    "read_text",
    "start",
    "urlopen",
}


def name_of(node: ast.expr) -> str:
    """`a.b.c` for a chain of names, and only its last part where the chain begins with something else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls_that_run_with(node: ast.AST) -> Iterator[ast.Call]:
    """The calls under `node` but those that wait in the body of a function for somebody to call it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from calls_that_run_with(part)
                if isinstance(part, ast.Call):
                    yield part
        elif not isinstance(child, ast.Lambda):
            yield from calls_that_run_with(child)


def blocking_call_in_async_def(source: str) -> list[int]:
    """Lines with a call that stops the event loop, and with it every request.

    What is opened by an `@asynccontextmanager` is opened at start, when there is no request yet.
    """
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.AsyncFunctionDef):
            continue
        if any(name_of(decorator) == "asynccontextmanager" for decorator in function.decorator_list):
            continue
        awaited = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Await)}
        for call in calls_that_run_with(function):
            name = name_of(call.func)
            method = name.rpartition(".")[2]
            if id(call) not in awaited and (
                name in BLOCKING
                or name.partition(".")[0] in BLOCKING_MODULES
                or ("." in name and method in BLOCKING_METHODS)
            ):
                found.append(call.lineno)
    return found


def function_middleware(source: str) -> list[int]:
    """Lines that use `BaseHTTPMiddleware`, by its name or by the decorator."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Name) and node.id == "BaseHTTPMiddleware")
        or (isinstance(node, ast.Attribute) and node.attr == "BaseHTTPMiddleware")
        or (isinstance(node, ast.alias) and node.name == "BaseHTTPMiddleware")
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "middleware"
        )
    ]


def work_at_import(source: str) -> list[int]:
    """Lines that do something at import: no definition or constant, or one that opens, reads or starts."""
    tree = ast.parse(source)
    found = [statement.lineno for statement in tree.body if not is_declaration(statement)]
    found += [
        call.lineno
        for call in calls_that_run_with(tree)
        if name_of(call.func).rpartition(".")[2] in AT_IMPORT
    ]
    return found


def is_declaration(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        value = statement.value
        return isinstance(value, ast.Constant) or (
            isinstance(value, ast.Call) and name_of(value.func).endswith((".include_router", ".frontend"))
        )
    if isinstance(statement, ast.If):
        return name_of(statement.test).endswith("TYPE_CHECKING")
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, *definitions))


def environment_read(source: str) -> list[int]:
    """Lines that read the environment: only `Settings` does."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and name_of(node) in ("os.environ", "os.getenv")
    ]


def changed_module_state(source: str) -> list[int]:
    """Lines that change a list, dict or set of the module, or bind one of its names anew."""
    tree = ast.parse(source)
    names = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and is_mutable(statement.value):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {name_of(target) for target in targets}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.append(node.lineno)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if name_of(node.value) in names:
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in MUTATING_METHODS and name_of(node.func.value) in names:
                found.append(node.lineno)
        elif isinstance(node, ast.AugAssign) and name_of(node.target) in names:
            found.append(node.lineno)
    return found


def is_mutable(value: ast.expr | None) -> bool:
    made = isinstance(value, ast.Call) and name_of(value.func).rpartition(".")[2] in (
        "Counter",
        "OrderedDict",
        "defaultdict",
        "deque",
        "dict",
        "list",
        "set",
    )
    return made or isinstance(value, MUTABLE)


def any_origin(source: str) -> list[int]:
    """Lines that admit every origin."""
    return [
        node.value.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.keyword)
        and node.arg in ("allow_origins", "allow_origin_regex", "cors_origins")
        and any(isinstance(part, ast.Constant) and part.value in ("*", ".*") for part in ast.walk(node.value))
    ]


def waiver(source: str) -> list[int]:
    """Lines that silence a checker."""
    return [
        number
        for number, line in enumerate(source.splitlines(), 1)
        if "# type: ignore" in line or "# noqa" in line
    ]


Rule = Callable[[str], list[int]]
RULES: list[Rule] = [
    blocking_call_in_async_def,
    function_middleware,
    work_at_import,
    environment_read,
    changed_module_state,
    any_origin,
    waiver,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    broken = [f"{file.relative_to(ROOT)}:{line}" for file in FILES for line in rule(file.read_text())]
    assert broken == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (blocking_call_in_async_def, "async def f():\n    time.sleep(1)"),
        (blocking_call_in_async_def, "async def f():\n    with open('x') as file: pass"),
        (blocking_call_in_async_def, "async def f():\n    return Path('x').read_text()"),
        (blocking_call_in_async_def, "async def f():\n    requests.get('http://x')"),
        (blocking_call_in_async_def, "async def f():\n    subprocess.run(['x'])"),
        (blocking_call_in_async_def, "async def f():\n    if x:\n        path.unlink()"),
        (function_middleware, "@app.middleware('http')\nasync def f(request, call_next): pass"),
        (function_middleware, "from starlette.middleware.base import BaseHTTPMiddleware"),
        (function_middleware, "class M(base.BaseHTTPMiddleware): pass"),
        (work_at_import, "for x in y: pass"),
        (work_at_import, "connect()"),
        (work_at_import, "file = open('x')"),
        (work_at_import, "engine = create_async_engine('x')"),
        (work_at_import, "def f(x=open('x')): pass"),
        (work_at_import, "class C:\n    text = Path('x').read_text()"),
        (work_at_import, "if x:\n    import y"),
        (environment_read, "DEBUG = os.environ['DEBUG']"),
        (environment_read, "def f(): return os.getenv('X')"),
        (work_at_import, "TEXT = Path('x').read_text()"),
        (changed_module_state, "seen = []\ndef f(x): seen.append(x)"),
        (changed_module_state, "seen: dict[str, int] = {}\ndef f(x): seen[x] = 1"),
        (changed_module_state, "seen = {}\ndef f(x): del seen[x]"),
        (changed_module_state, "seen = set()\ndef f(x): seen.add(x)"),
        (changed_module_state, "seen = []\ndef f(x):\n    global seen\n    seen = x"),
        (changed_module_state, "rooms = defaultdict(set)\ndef f(x): rooms.pop(x)"),
        (any_origin, "CORSMiddleware(app, allow_origins=['*'])"),
        (any_origin, "Middleware(CORSMiddleware, allow_origin_regex='.*')"),
        (waiver, "x = 1  # noqa: S101"),
    ],
)
def test_each_rule_can_be_broken(rule: Rule, source: str) -> None:
    assert rule(source)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (blocking_call_in_async_def, "async def f():\n    await asyncio.to_thread(Path('x').read_text)"),
        (blocking_call_in_async_def, "async def f():\n    await aiofiles.os.stat('x')"),
        (blocking_call_in_async_def, "async def f():\n    def g(): return open('x')"),
        (blocking_call_in_async_def, "def f():\n    time.sleep(1)"),
        (blocking_call_in_async_def, "@asynccontextmanager\nasync def f():\n    folder.mkdir()\n    yield"),
        (work_at_import, "import os\nrouter = APIRouter()\nLIMIT = 3\ndef f(): return open('x')"),
        (changed_module_state, "TABLE = {1: 2}\ndef f(): return TABLE[1]"),
        (changed_module_state, "def f():\n    seen = []\n    seen.append(1)"),
        (any_origin, "CORSMiddleware(app, allow_origins=['https://a.example'])"),
    ],
)
def test_what_is_right_breaks_no_rule(rule: Rule, source: str) -> None:
    assert rule(source) == []
