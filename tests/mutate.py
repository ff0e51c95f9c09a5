"""Make wrong changes to the source, one at a time, and see whether the tests notice.

    python tests/mutate.py                          every change of tests/mutations.json
    python tests/mutate.py --only likelihood        those whose file or description has this word
    python tests/mutate.py --jobs 4 --json          four at a time; a JSON array on standard output
    python tests/mutate.py --results FILE           go on where an earlier run was stopped; each result is appended to FILE

A change is an object with these keys:

    file    the source file, from the root of the repository
    old     text that stands in that file exactly once (or `count` times, where that key is told; then all are changed)
    new     what is put in its place
    tests   test files, or tests as pytest names them (tests/core/test_rng.py::test_…), of which at least one must fail
    about   what is wrong now, in words

The tree is copied to a temporary folder, so that the working tree is never touched.  First the named tests run there without
a change, and must pass.  A change is *caught* if one of its tests fails; it is *not caught* if all pass; it *does not apply* if
its old text or one of its tests is gone; it is *late* if its tests did not end within the time limit.  The exit status is 0 if
all were caught, 1 if any was not, and 2 if there is nothing to run or the tests fail without a change.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = "tests/mutations.json"
CAUGHT, MISSED, STALE, LATE = "caught", "not caught", "does not apply", "late"


@dataclass(frozen=True)
class Change:
    """One wrong change and the tests that must notice it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    about: str
    count: int = 1

    def lacks(self, root: Path) -> str:
        """Why the change does not apply to the tree at `root`; empty if it does."""
        if not (root / self.file).is_file():
            return f"{self.file} does not exist"
        found = (root / self.file).read_text(encoding="utf-8").count(self.old)
        if found != self.count:
            return f"the old text stands {found} times in {self.file} and not {self.count}"
        if self.old == self.new:
            return "the new text is the old text"
        for test in self.tests:
            path, _, name = test.partition("::")
            function = name.rpartition("::")[2].partition("[")[0]
            if not (root / path).is_file():
                return f"{path} does not exist"
            if function and not re.search(rf"def {function}\b", (root / path).read_text(encoding="utf-8")):
                return f"{path} has no test {function}"
        return "" if self.tests else "it names no tests"


@dataclass(frozen=True)
class Result:
    """What came of one change."""

    outcome: str
    file: str
    about: str
    seconds: float
    said: str  # the first test that failed, or why there is no answer


def read_changes(path: Path) -> list[Change]:
    """The changes of a list; every key is checked, so that a misspelt one is no silent loss."""
    known = {field.name for field in fields(Change)}
    changes = []
    for k, entry in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
        if unlike := set(entry) - known | (known - {"count"} - set(entry)):
            raise SystemExit(f"change {k} of {path} has a key too many or too few: {', '.join(sorted(unlike))}")
        changes.append(Change(**{**entry, "tests": tuple(entry["tests"])}))
    return changes


def read_results(path: Path) -> dict[Change, Result]:
    """What an earlier run wrote, by the change as it stood in the list then; a line that was cut off is left out."""
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            written = json.loads(line)
            change = written.pop("change")
            results[Change(**{**change, "tests": tuple(change["tests"])})] = Result(**written)
    return results


def append_result(path: Path, change: Change, result: Result) -> None:
    """Add a line that `read_results` reads."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result) | {"change": asdict(change)}, ensure_ascii=False) + "\n")


def copy_tree(root: Path, to: Path) -> None:
    """The files of the repository that git would keep, new ones too; where there is no git, all of them."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    for name in names:
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to / name)


def run_tests(tree: Path, tests: Sequence[str], limit: float | None, *options: str) -> tuple[int | None, str]:
    """pytest's exit status, None if it was late, and what it printed.  One thread; no caches, so that no old bytecode is met."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", *options, *tests],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return (run.communicate(timeout=limit)[0], run.returncode)[::-1]
    except BaseException as error:  # Ctrl-C, too, must not leave tests behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)  # what the tests themselves have started ends with them
        run.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, ""
        raise


def attempt(change: Change, tree: Path, limit: float) -> Result:
    """Make the change in the tree, run its tests, and take the change back."""
    start, path = time.monotonic(), tree / change.file
    if said := change.lacks(tree):
        return Result(STALE, change.file, change.about, 0.0, said)
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(change.old, change.new), encoding="utf-8")
    try:
        status, printed = run_tests(tree, change.tests, limit, "-x")
    finally:
        path.write_text(before, encoding="utf-8")
    failed = [line.split()[1] for line in printed.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    last = (printed.strip().splitlines() or [""])[-1]
    outcome = {0: MISSED, 1: CAUGHT, 2: CAUGHT, None: LATE}.get(
        status, STALE
    )  # 2: the changed module cannot be imported
    said = failed[0] if outcome == CAUGHT and failed else f"after {limit:g} s" if outcome == LATE else last
    return Result(outcome, change.file, change.about, round(time.monotonic() - start, 1), said)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="PATTERN", help="a regular expression; other files and descriptions are left out"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many changes are tried at a time (1)")
    parser.add_argument(
        "--limit", type=float, default=300, metavar="SECONDS", help="time for the tests of a change (300)"
    )
    parser.add_argument("--list", metavar="FILE", help=f"the list of changes (default: {LIST} of the repository)")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="append each result to FILE; changes that stand there are not made again",
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)  # another tree, for our own tests
    parser.add_argument(
        "--json", action="store_true", help="print a JSON array of the results; progress on standard error"
    )
    told = parser.parse_args(arguments)
    changes = read_changes(Path(told.list) if told.list else told.root / LIST)
    if told.only:
        changes = [c for c in changes if re.search(told.only, f"{c.file} {c.about}", re.IGNORECASE)]
    if not changes or told.jobs < 1:
        print("nothing to run: no change matches, or --jobs is less than 1", file=sys.stderr)
        return 2

    done = read_results(told.results) if told.results else {}

    def tell(change: Change, result: Result) -> Result:
        if told.results:
            append_result(told.results, change, result)
        line = f"{result.outcome:14} {result.seconds:6.1f} s  {result.file}: {result.about}  [{result.said}]"
        print(line, file=sys.stderr if told.json else sys.stdout, flush=True)
        return result

    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, ThreadPoolExecutor(told.jobs) as pool:
        trees: Queue[Path] = Queue()
        for k in range(told.jobs):
            copy_tree(told.root, Path(folder, str(k)))
            trees.put(Path(folder, str(k)))
        sound = [c for c in changes if c not in done and not c.lacks(told.root)]
        every = sorted({test for c in sound for test in c.tests})
        if sound and (found := run_tests(trees.queue[0], every, None))[0]:
            print(f"the tests fail without a change:\n{found[1]}", file=sys.stderr)
            return 2

        def one(change: Change) -> Result:
            if change in done:
                return done[change]
            tree = trees.get()
            try:
                return tell(change, attempt(change, tree, told.limit))
            finally:
                trees.put(tree)

        results = list(pool.map(one, changes))
    return report(results, told.json)


def report(results: Sequence[Result], as_json: bool) -> int:
    """Print the summary; 0 if every change was caught, else 1."""
    counted: dict[str, Any] = Counter(result.outcome for result in results)
    summary = ", ".join(
        f"{counted[outcome]} {outcome}" for outcome in (CAUGHT, MISSED, STALE, LATE) if counted[outcome]
    )
    print(f"{len(results)} changes: {summary}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=1))
    return 0 if counted[CAUGHT] == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
