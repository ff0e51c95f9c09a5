"""Who imports whom, who prints, who draws: read off the source, so that it stays true without anybody watching."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import textdiff

ROOT = Path(textdiff.__file__).parent
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

CORE = [
    name
    for name in FILES
    if name.startswith(("processes/", "samplers/", "verify"))
    or name
    in ("contracts", "rng", "levels", "schedules", "predictions", "bridges", "likelihood", "ode", "verse", "resolve")
]
TABLES = ["__init__", "processes/__init__", "samplers/__init__", "verse", "checker", "resolve", "errors", "__main__"]
TABLES += [name for name in FILES if name.startswith("cli/")]
HUGGING_FACE = {"transformers", "tokenizers", "datasets", "huggingface_hub", "accelerate", "evaluate"}
MEETS_HUGGING_FACE = (
    "predictors/",
    "training/",
    "canvas",
    "image_data",
    "tokenization",
    "metrics",
    "hf_metrics",
    "pipeline",
    "bench",
    "cli/",
)

# Top to bottom: a part imports what stands before it, never what stands behind.
LAYERS = [
    ["errors"],
    ["resolve", "verse"],
    ["script", "records"],
    ["rng"],
    ["contracts", "levels", "schedules"],
    ["degradations"],
    ["predictions"],
    ["constraints"],
    ["bridges", "processes/"],
    ["samplers/"],
    ["tokenization", "predictors/"],
    ["likelihood", "ode", "prosody"],
    ["canvas", "checker", "corpus", "counts", "verify", "verify_values"],
    ["verify_laws"],
    ["trace", "heat"],
    ["pictures", "watching"],
    ["mosaic"],
    ["animation"],
    ["image_data", "images"],
    ["training/"],
    ["metrics", "image_metrics", "pipeline"],
    ["report", "image_report", "hf_metrics"],
    ["following", "refine"],
    ["bench", "bench_family", "frontier"],
    ["cli/"],
    ["__main__"],
]
# `likelihood` knows no network, and `samplers` no network: what they need of one is a contract.
APART = [
    ("processes/", "samplers/"),
    ("samplers/", "processes/"),
    ("samplers/", "predictors/"),
    ("processes/", "predictors/"),
    ("likelihood", "predictors/"),
    ("training/", "pipeline"),
]


def imports(tree: ast.AST, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a file imports; without those inside functions and `if TYPE_CHECKING` if so asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("textdiff"))
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if not (at_import_only and lazy):
            yield from imports(node, at_import_only=at_import_only)


def own(name: str) -> set[str]:
    """The files of this package that a file imports when it is imported itself."""
    found = set()
    for module in imports(TREES[name], at_import_only=True):
        path = module.removeprefix("textdiff").strip(".").replace(".", "/")
        if module.startswith("textdiff.") and (path in FILES or f"{path}/__init__" in FILES):
            found.add(path if path in FILES else f"{path}/__init__")
    return found


def layer(name: str) -> int | None:
    return next(
        (k for k, names in enumerate(LAYERS) for n in names if name == n or (n[-1] == "/" and name.startswith(n))), None
    )


def test_every_file_has_its_layer():
    assert [name for name in FILES if layer(name) is None] == ["__init__"]


@pytest.mark.parametrize("name", FILES)
def test_imports_run_downwards(name):
    if (here := layer(name)) is not None:
        higher = {other for other in own(name) if (layer(other) or 0) > here}
        assert not higher, f"{name} imports {higher}, which stand above it"


@pytest.mark.parametrize(("part", "other"), APART)
def test_parts_that_know_each_other_by_contract_only(part, other):
    for name in FILES:
        if name.startswith(part) and not name.endswith("__init__"):
            known = {found for found in own(name) if found.startswith(other) and not found.endswith("__init__")}
            assert not known, f"{name} imports {known}"


@pytest.mark.parametrize("name", CORE)
def test_the_core_does_not_know_hugging_face(name):
    assert not {module.split(".")[0] for module in imports(TREES[name])} & HUGGING_FACE


@pytest.mark.parametrize("name", FILES)
def test_hugging_face_is_met_at_the_border(name):
    if {module.split(".")[0] for module in imports(TREES[name])} & HUGGING_FACE:
        assert name.startswith(MEETS_HUGGING_FACE)


@pytest.mark.parametrize("name", TABLES)
def test_tables_and_help_import_no_torch(name):
    heavy = {"torch", "numpy", *HUGGING_FACE}
    assert not {module.split(".")[0] for module in imports(TREES[name], at_import_only=True)} & heavy


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("cli/")])
def test_only_the_command_line_prints(name):
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "input")]
    assert not [call for call in calls if ast.unparse(call).startswith(("sys.stdout", "sys.stderr", "warnings.warn"))]


DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial", "bernoulli",
    "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_", "gumbel_softmax",
}  # fmt: skip
SOURCES = {"random", "secrets", "numpy.random", "torch.distributions"}
# Where something else is drawn than a text of ours: weights, the plain loop and the inputs of a timing, and the seeds that
# a caller's generator asks for.
NO_TEXT = {
    "training/start": {"randn", "randint"},
    "predictors/fast_float32": {"randn"},
    "bench": DRAWS,
    "pipeline": {"randint"},
}


@pytest.mark.parametrize("name", [name for name in FILES if name != "rng"])
def test_only_rng_draws(name):
    modules = set(imports(TREES[name]))
    assert not {module for module in modules if module.startswith(tuple(SOURCES))}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and node.attr in DRAWS - NO_TEXT.get(name, set()):
            assert ast.unparse(node.value) in ("rng", "self.rng", "self"), (
                f"{name} line {node.lineno}: {ast.unparse(node)}"
            )


@pytest.mark.parametrize("name", FILES)
def test_no_pickles_and_no_foreign_code(name):
    modules = {module.split(".")[0] for module in imports(TREES[name])}
    assert not modules & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for node in ast.walk(TREES[name]):
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
