"""The import floors of the package: arrows only point down, nothing heavy is imported early."""

import ast
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vistill

ROOT = Path(vistill.__file__).parent
FLOORS = [
    {"cli"},
    {"api"},
    {"runs"},
    {"training", "evaluation", "analysis", "search"},
    {"methods"},
    {"models", "heads", "tokens", "augment", "targets", "losses"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
EVERYWHERE = {
    *(
        "batch",
        "errors",
        "files",
        "filled",
        "image_size",
        "locking",
        "nearest",
        "random",
        "stopping",
    ),
    "text_cleanup",
    "tokenizing",
}
WAITING = {"vistill.losses.flow"}
"""Modules that only Python code reaches so far; their docstrings say what they wait for."""
HEAVY = {"torchvision", "timm", "transformers", "open_clip"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, *, at_import_only: bool = False) -> Iterator[str]:
    """Modules that `module` imports, those inside functions included unless told otherwise."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = _run_at_import(tree) if at_import_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not guarded and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _run_at_import(child)


def room(module: str) -> str:
    """`vistill.data.folder` → `data`; the package itself is the public face of `api`."""
    return [*module.split("."), "api"][1]


def may_import(importer: str, imported: str) -> bool:
    a, b = room(importer), room(imported)
    if a == b or b in EVERYWHERE or imported == "vistill":
        return True
    if b == "config":
        return FLOOR.get(a, 9) <= 4
    if b == "data":
        return FLOOR.get(a, 9) in (1, 2, 3)
    if (a, b) == ("data", "augment"):
        return True
    if a not in FLOOR or b not in FLOOR:
        return False
    # Maths may use maths, and fine-tuning uses the training loop; no other neighbours.
    level = (a, b) == ("evaluation", "training") or FLOOR[a] == FLOOR[b] == len(FLOORS) - 1
    return FLOOR[a] < FLOOR[b] or level


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module: str) -> None:
    wrong = [
        name
        for name in imports(module)
        if name.partition(".")[0] == "vistill" and not may_import(module, name)
    ]
    assert not wrong, f"{module} must not import {wrong}"


def test_every_room_is_known() -> None:
    rooms = {room(module) for module in MODULES}
    assert rooms <= set(FLOOR) | EVERYWHERE | {"config", "data"}


def test_what_no_command_reaches_is_named() -> None:
    reached, waiting = set(), [name for name in MODULES if room(name) in {"cli", "api"}]
    while waiting:
        module = waiting.pop()
        if module in MODULES and module not in reached:
            reached.add(module)
            waiting += imports(module)
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert MODULES.keys() - reached - packages == WAITING


def test_no_circle() -> None:
    graph = {
        module: {name for name in imports(module, at_import_only=True) if name in MODULES}
        - {module}
        for module in MODULES
        if module != "vistill"
    }
    for names in graph.values():
        names.discard("vistill")  # holds the version and lazy names only
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_circle_between_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module != "vistill":
            used = {room(name) for name in imports(module) if name in MODULES and "." in name}
            graph.setdefault(room(module), set()).update(used - {room(module)})
    TopologicalSorter(graph).prepare()


def test_api_is_signatures() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "api").rglob("*.py"))
    assert lines <= 900


@pytest.mark.slow
def test_a_command_loads_no_library_of_models_and_no_compiler_to_begin_with() -> None:
    names = ["runs.pretraining", "runs.measuring", "runs.inference", "evaluation.evaluate"]
    heavy = {"torch._dynamo", "sympy", "pyarrow", "av", *HEAVY}
    check = f"import {', '.join(f'vistill.{name}' for name in names)}, sys; "
    check += f"print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_loader_processes_start_light() -> None:
    for module in MODULES:
        if room(module) == "data":
            assert not {name.partition(".")[0] for name in imports(module)} & HEAVY, module


def test_maths_reads_no_files() -> None:
    for module in MODULES:
        if room(module) in {"methods", "heads", "tokens", "augment", "targets", "losses"}:
            used = {name.partition(".")[0] for name in imports(module)}
            assert not used & {"os", "io", "pathlib", "yaml", "json", "pydantic"}, module


LIGHT = ["vistill", "vistill.cli", "vistill.api", "vistill.config.loading"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [f"import {', '.join(LIGHT)}", "from vistill.cli import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_starts_in_well_under_half_a_second(code: str) -> None:
    check = f"{code}; import sys; sys.exit(bool({{'torch', 'numpy', 'timm'}} & set(sys.modules)))"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr or "torch or numpy was imported"
    assert min(seconds) < 1.5  # of the processor: a busy machine makes it no slower; usually 0.2


def test_files_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages: of two files of one name, pytest would collect one."""
    files = [path.name for path in Path(__file__).parents[1].rglob("*.py")]
    counts = Counter(name for name in files if name not in ("conftest.py", "__init__.py"))
    assert [name for name, count in counts.items() if count > 1] == []
