"""Run the tests with the lowest and with the newest versions of other packages that pyproject.toml allows.

    pip install uv
    python tests/bounds.py                             both, each in a new environment, which is removed afterwards
    python tests/bounds.py lowest                      one of the two
    python tests/bounds.py lowest -- -x tests/core     what follows the two dashes goes to pytest
    python tests/bounds.py lowest --folder DIR         keep the environment in DIR, and use it again if it is there

`lowest` takes the lowest version that a line of pyproject.toml allows, and of what these packages need themselves the newest
that fits.  uv chooses and installs; it reads its own variables, so that UV_TORCH_BACKEND=cpu takes builds of torch without
CUDA (which has gigabytes), UV_FIND_LINKS=DIR looks in a folder as well, and UV_CONSTRAINT=FILE says more about versions.

The exit status is 0 if the tests pass in every environment, else 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def install(bound: str, folder: Path) -> None:
    """Make an environment in `folder` with textdiff, its extra `test`, and pytest."""
    python, versions = folder / "bin" / "python", folder / "versions.txt"
    resolve = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--extra", "test", "pyproject.toml"]
    commands = [
        ["uv", "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*resolve, "--python", str(python), "--resolution", RESOLUTIONS[bound], "--output-file", str(versions)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--requirement", str(versions)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", "."],
    ]
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True)
    print(f"the {bound} versions:\n{versions.read_text(encoding='utf-8')}", flush=True)


def passes(folder: Path, options: Sequence[str]) -> bool:
    """Whether the tests pass in the environment in `folder`."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "VIRTUAL_ENV": str(folder)}
    return not subprocess.run(
        [folder / "bin" / "python", "-m", "pytest", *options], cwd=ROOT, env=environment
    ).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bounds", nargs="*", choices=list(RESOLUTIONS), metavar="lowest|newest", help="which (both)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the environments are kept")
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:at])
    if shutil.which("uv") is None:
        parser.error("uv is not there; pip install uv")
    failed = []
    for bound in asked.bounds or RESOLUTIONS:
        with tempfile.TemporaryDirectory(prefix="bounds-") as empty:
            folder = (asked.folder or Path(empty)).absolute() / bound
            if not (folder / "versions.txt").is_file():
                install(bound, folder)
            if not passes(folder, given[at + 1 :]):
                failed.append(bound)
    print(f"the tests fail with the {' and the '.join(failed)} versions" if failed else "the tests pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
