"""How the house is laid out: read off the source, every import of it (absolute, relative, inside functions, under TYPE_CHECKING).

`faults` gives the faults of a tree by rule.  The package must have none beyond `KNOWN`, the list of those that still wait to be
mended.  A small tree with one planted fault of each kind shows
that no rule has gone blind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import textdiff

PACKAGE = Path(textdiff.__file__).parent
TESTS = Path(__file__).parents[1]

# From the ground up: a folder imports from those below it, and the folders of one floor do not know each other.
FLOORS = (
    ("core",),
    ("processes", "samplers", "shaping"),
    ("networks", "verse"),
    ("data", "show", "verify"),
    ("pipeline",),
    ("training", "measure"),
    ("cli",),
    ("__main__", "__init__"),
)
NAMES, FILES, LINES = 15, 12, 400  # at most: in the package's root, in a folder, in a file
TABLES = ("processes/__init__", "samplers/__init__")  # where the names of processes and samplers may be compared


class Source:
    """The Python files below a package's folder, by their path without suffix ("cli/draw"), parsed to nodes."""

    def __init__(self, root: Path):
        self.root = root
        paths = {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.py"))}
        self.texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        self.nodes = {name: list(ast.walk(ast.parse(text))) for name, text in self.texts.items()}
        self.imports = {name: set(self._imports(name)) for name in self.nodes}

    def _file(self, dotted: str) -> str | None:
        """The file of a module "textdiff.cli.draw", or None where there is none."""
        package, _, rest = dotted.partition(".")
        name = rest.replace(".", "/")
        if package != self.root.name or not rest:
            return None
        return next((found for found in (name, f"{name}/__init__") if found in self.nodes), None)

    def _imports(self, name: str) -> Iterator[str]:
        """The files that `name` imports, wherever in it the statement stands."""
        folder = [self.root.name, *name.split("/")[:-1]]
        for node in self.nodes[name]:
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
                stem = ".".join(filter(None, [base, node.module or ""]))
                modules = [f"{stem}.{alias.name}" for alias in node.names]
                modules = [m if self._file(m) else stem for m in modules]
            for module in modules:
                found = self._file(module)
                if found is not None and found != name:
                    yield found


def floor(name: str) -> int:
    """The floor of a file's folder; AssertionError for a folder that the house does not have."""
    folder = name.split("/")[0]
    found = [k for k, folders in enumerate(FLOORS) if folder in folders]
    assert found, f"{name} stands in no folder of the house"
    return found[0]


def upward(source: Source) -> Iterator[str]:
    for name, others in source.imports.items():
        for other in sorted(others):
            same = name.split("/")[0] == other.split("/")[0]
            tables = name in TABLES and other in TABLES  # one says what it needs of the other's lines
            if not same and not tables and floor(other) >= floor(name):
                yield f"{name} imports {other}"


def circles(source: Source) -> Iterator[str]:
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> Iterator[str]:
        if name in way:
            ring = way[way.index(name) :]
            least = ring.index(min(ring))
            yield " > ".join(ring[least:] + ring[:least])
        elif name not in done:
            for other in sorted(source.imports[name]):
                yield from visit(other, [*way, name])
            done.add(name)

    yield from sorted({ring for name in source.nodes for ring in visit(name, [])})


def private(source: Source) -> Iterator[str]:
    """Names that begin with one underscore, used outside the file that defines them."""
    defined = {name: set(_defined(nodes)) for name, nodes in source.nodes.items()}
    everywhere = set().union(*defined.values())
    for name, nodes in source.nodes.items():
        foreign = everywhere - defined[name]
        for node in nodes:
            if isinstance(node, ast.Attribute) and node.attr in foreign:
                yield f"{name} reaches {node.attr}"
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{name} imports {a.name}" for a in node.names if a.name in foreign)


def _defined(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        found = None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            found = node.id if isinstance(node, ast.Name) else node.attr
        if found and found.startswith("_") and not found.startswith("__") and found != "_":
            yield found


def wide(source: Source) -> Iterator[str]:
    names = [p.name for p in source.root.iterdir() if p.name not in ("__pycache__", "py.typed")]
    if len(names) > NAMES:
        yield f"the root has {len(names)} names"
    for folder in sorted({name.rpartition("/")[0] for name in source.nodes} - {""}):
        files = [name for name in source.nodes if name.rpartition("/")[0] == folder]
        if len(files) > FILES:
            yield f"{folder} has {len(files)} files"


def long(source: Source) -> Iterator[str]:
    for name, text in source.texts.items():
        if text.count("\n") > LINES:
            yield name


def named(source: Source, names: set[str]) -> Iterator[str]:
    """Comparisons with the name of a process or sampler, and questions which class a prediction is of."""
    for name, nodes in source.nodes.items():
        if name in TABLES:
            continue
        for node in nodes:
            if isinstance(node, ast.Compare):
                words = [c.value for side in [node.left, *node.comparators] for c in _constants(side)]
                yield from (f"{name}: {word}" for word in words if word in names)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "isinstance"
                and "prediction" in ast.unparse(node.args[0])
            ):
                yield f"{name}: isinstance of a prediction"


def _constants(node: ast.AST) -> Iterator[ast.Constant]:
    nodes = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    yield from (n for n in nodes if isinstance(n, ast.Constant))


def faults(root: Path, names: set[str]) -> dict[str, list[str]]:
    """The faults of the package in folder `root`, by rule; `names` are those of processes and samplers."""
    source = Source(root)
    return {
        "upward": sorted(upward(source)),
        "circles": sorted(circles(source)),
        "private": sorted(private(source)),
        "wide": sorted(wide(source)),
        "long": sorted(long(source)),
        "named": sorted(set(named(source, names))),
    }


def table_names() -> set[str]:
    from textdiff.processes import PROCESSES
    from textdiff.samplers import SAMPLERS

    return {*PROCESSES, *SAMPLERS}


# What still waits to be mended.  Strike off what you mend; add nothing.
KNOWN: dict[str, list[str]] = {
    "circles": [],
    "long": [],
    "named": [],
    "private": [],
    "upward": [],
}


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    return faults(PACKAGE, table_names())


@pytest.mark.parametrize("rule", ["upward", "circles", "private", "wide", "long", "named"])
def test_the_house_has_no_faults_but_those_that_are_known(found, rule):
    assert [fault for fault in found[rule] if fault not in KNOWN.get(rule, [])] == []


def test_no_test_file_is_longer_than_a_file_may_be():
    lengths = {p.stem: p.read_text(encoding="utf-8").count("\n") for p in TESTS.rglob("*.py")}
    assert [name for name, lines in lengths.items() if lines > LINES] == []


def test_no_folder_of_tests_is_wider_than_a_folder_may_be():
    files = [p.parent.name for p in TESTS.rglob("*.py") if p.parent != TESTS]
    assert {name: files.count(name) for name in files if files.count(name) > FILES} == {}


# -- no rule is blind -----------------------------------------------------------------------------------------------------

SOUND = {"__init__.py": "", "core/__init__.py": "", "core/rng.py": "def _draw():\n    pass\n", "cli/__init__.py": ""}
PLANTED: dict[str, tuple[dict[str, str], str]] = {
    "an absolute import": ({"core/levels.py": "import textdiff.cli\n"}, "upward"),
    "an import of a name": ({"core/levels.py": "from textdiff import cli\n"}, "upward"),
    "a relative import": ({"core/levels.py": "from ..cli import main\n"}, "upward"),
    "an import inside a function": ({"core/levels.py": "def f():\n    from textdiff.cli import main\n"}, "upward"),
    "an import for types": ({"core/levels.py": "if TYPE_CHECKING:\n    from textdiff.cli import main\n"}, "upward"),
    "an import of the folder beside it": ({"samplers/a.py": "import textdiff.processes.b\n", "processes/b.py": ""}, "upward"),
    "two files that import each other": (
        {"core/a.py": "from textdiff.core import b\n", "core/b.py": "def f():\n    from . import a\n"},
        "circles",
    ),
    "a private name imported": ({"core/levels.py": "from textdiff.core.rng import _draw\n"}, "private"),
    "a private name reached": ({"core/levels.py": "from textdiff.core import rng\nrng._draw()\n"}, "private"),
    "a crowded root": ({f"name{k}.txt": "" for k in range(NAMES)}, "wide"),
    "a crowded folder": ({f"core/a{k}.py": "" for k in range(FILES)}, "wide"),
    "a file without end": ({"core/levels.py": "x = 1\n" * (LINES + 1)}, "long"),
    "a comparison with a name": ({"core/levels.py": "def f(name):\n    return name in ('mask', 'x')\n"}, "named"),
    "a question of class": ({"core/levels.py": "def f(prediction):\n    return isinstance(prediction, int)\n"}, "named"),
}  # fmt: skip


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "textdiff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "textdiff"


def test_a_sound_tree_has_no_faults(tmp_path):
    assert not any(faults(tree(tmp_path, SOUND), {"mask"}).values())


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(tmp_path, fault):
    files, rule = PLANTED[fault]
    found = faults(tree(tmp_path, SOUND | files), {"mask"})
    assert [name for name, faults in found.items() if faults] == [rule]
