"""Who meets Hugging Face, who prints, who draws, who loads what: read off the source.  `test_layout` has who imports whom."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import textdiff

ROOT = Path(textdiff.__file__).parent
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

CORE = [name for name in FILES if name.startswith(("core/", "processes/", "samplers/", "verse/", "verify/"))]
TABLES = [
    "__init__",
    "__main__",
    "processes/__init__",
    "samplers/__init__",
    "verse/forms",
    "verse/checker/judge",
    "core/resolve",
]
TABLES += ["core/errors", "core/moved", *(name for name in FILES if name.startswith("cli/"))]
HUGGING_FACE = {"transformers", "tokenizers", "datasets", "huggingface_hub", "accelerate", "evaluate"}
MEETS_HUGGING_FACE = ("networks/", "training/", "data/", "measure/", "pipeline/hub/")


@functools.cache
def nodes(name: str) -> list[ast.AST]:
    """Every node of a file of the package."""
    return list(ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("textdiff"))


@functools.cache
def imports(name: str) -> frozenset[str]:
    """The modules that a file imports, wherever the statement stands."""
    return frozenset(module for node in nodes(name) for module in _imported(node))


def imports_at_once(node: ast.AST) -> Iterator[str]:
    """Those that are imported with the file: neither in a function nor under `if TYPE_CHECKING`."""
    yield from _imported(node)
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        )
        if not lazy:
            yield from imports_at_once(child)


@pytest.mark.parametrize("name", CORE)
def test_the_core_does_not_know_hugging_face(name):
    assert not {module.split(".")[0] for module in imports(name)} & HUGGING_FACE


@pytest.mark.parametrize("name", FILES)
def test_hugging_face_is_met_at_the_border(name):
    if {module.split(".")[0] for module in imports(name)} & HUGGING_FACE:
        assert name.startswith(MEETS_HUGGING_FACE)


@pytest.mark.parametrize("name", TABLES)
def test_tables_and_help_import_no_torch(name):
    heavy = {"torch", "numpy", *HUGGING_FACE}
    assert not {module.split(".")[0] for module in imports_at_once(nodes(name)[0])} & heavy


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("cli/", "core/moved"))])
def test_only_the_command_line_prints(name):
    calls = [node.func for node in nodes(name) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "input")]
    written = [ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)]
    assert not [call for call in written if call.startswith(("sys.stdout", "sys.stderr", "warnings.warn"))]


DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial", "bernoulli",
    "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_", "gumbel_softmax",
}  # fmt: skip
SOURCES = {"random", "secrets", "numpy.random", "torch.distributions"}
# Where something else is drawn than a text of ours: weights, the plain loop and the inputs of a timing, and the seeds that
# a caller's generator asks for.
NO_TEXT = {
    "training/texts/start": {"randn", "randint"},
    "networks/fast_float32": {"randn"},
    "networks/lean/products": {"randn"},
    "measure/bench": DRAWS,
    "measure/timing/machine": {"randn"},
    "pipeline/run": {"randint"},
}


@pytest.mark.parametrize("name", [name for name in FILES if name != "core/rng"])
def test_only_rng_draws(name):
    modules = imports(name)
    assert not {module for module in modules if module.startswith(tuple(SOURCES))}
    for node in nodes(name):
        if isinstance(node, ast.Attribute) and node.attr in DRAWS - NO_TEXT.get(name, set()):
            assert ast.unparse(node.value) in ("rng", "self.rng", "self"), (
                f"{name} line {node.lineno}: {ast.unparse(node)}"
            )


@pytest.mark.parametrize("name", FILES)
def test_no_pickles_and_no_foreign_code(name):
    modules = {module.split(".")[0] for module in imports(name)}
    assert not modules & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for node in nodes(name):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in (
                "eval",
                "exec",
                "torch.load",
                "torch.save",
                "yaml.load",
                "yaml.unsafe_load",
            )
            assert not [k for k in node.keywords if k.arg == "trust_remote_code" and ast.unparse(k.value) != "False"]


def test_listing_and_help_load_no_torch():
    """Once for real: what the imports of the tables pull in together."""
    code = (
        "import sys, textdiff, textdiff.cli as cli;"
        "codes = [cli.main(a) for a in (['forms'], ['samplers'], ['--help'], ['generate', '--help'], ['train', '--help'])];"
        "assert codes == [0] * 5, codes;"
        "heavy = {'torch', 'transformers', 'tokenizers', 'datasets', 'numpy', 'tqdm', 'yaml'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
