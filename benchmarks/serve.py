"""Many clients of `textdiff serve`, one of which is killed at random each second; every answer is held against the library's own.

    python benchmarks/serve.py                             # 16 clients, 60 seconds, the packaged model
    python benchmarks/serve.py --tiny --clients 64 --seconds 600

A client is a process that asks one request after the other, of a list that the library has answered beforehand, each alone; one in
four asks for a stream.  A client that is killed leaves whatever it has asked for, and another takes its place.  At the end the
script says how many answers came, whether any was wrong, how long they took, and what memory the service had.  The exit code
is 1 if an answer was wrong, if a request failed otherwise than it must, or if the service did not end as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

FORMS = ("wuyan-jueju", "qiyan-jueju", "couplet:5", "couplet:7")
LINE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
EVENTS = "text/event-stream"


def requests(count: int, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """(verb, job): some of each kind."""
    found: list[tuple[str, dict[str, Any]]] = []
    for k in range(count):
        kind = k % 8
        if kind < 5:
            job = {"id": k, "form": FORMS[k % 4], "steps": steps, "n": 1 + (kind == 4)}
            found.append(("generate", job))
        elif kind == 5:
            found.append(("fill", {"id": k, "text": LINE.replace("光", "□").replace("头", "□"), "steps": 2}))
        elif kind == 6:
            found.append(("score", {"id": k, "text": LINE, "levels": 2, "repeats": 1, "seed": k}))
        else:
            found.append(("fill", {"id": k, "text": LINE}))  # it has no hole, and is refused
    return found


def answers(model: str | None, asked: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the library makes of each, alone."""
    import textdiff
    from textdiff.core.errors import AskedError
    from textdiff.pipeline.jobs.lines import joined
    from textdiff.pipeline.jobs.verbs import VERBS, results

    pipe, found = textdiff.load(model), []
    for verb, job in asked:
        ((_, result),) = results(pipe, VERBS[verb], [job], {})  # type: ignore[arg-type]
        said = {"error": str(result)} if isinstance(result, AskedError) else result
        found.append(json.loads(joined(said, job)))
    return found


def differs(found: Any, known: Any) -> bool:
    """Whether an answer is another one; a score may differ in its last digits, as products of other sizes are rounded otherwise."""
    if isinstance(known, float) and isinstance(found, float):
        return abs(found - known) > 1e-5 * max(1.0, abs(known))
    if isinstance(known, dict) and isinstance(found, dict):
        return found.keys() != known.keys() or any(differs(found[key], known[key]) for key in known)
    if isinstance(known, list) and isinstance(found, list):
        return len(found) != len(known) or any(map(differs, found, known))
    return bool(found != known)


# -- a client -------------------------------------------------------------------------------------------------------------


def client(host: str, port: int, known: Path, seed: int, seconds: float) -> None:
    """Ask until the time is over; a line of JSON on stdout for each answer."""
    chance, cases = random.Random(seed), json.loads(known.read_text(encoding="utf-8"))
    connection = http.client.HTTPConnection(host, port, timeout=120)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        verb, job, expected = chance.choice(cases)
        streamed = chance.random() < 0.25
        began = time.monotonic()
        try:
            headers = {"Content-Type": "application/json"} | ({"Accept": EVENTS} if streamed else {})
            connection.request("POST", f"/{verb}", json.dumps(job), headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
            connection.close()
            continue
        took = time.monotonic() - began
        if status == 429:
            print(json.dumps({"full": took}), flush=True)
            time.sleep(min(float(answer.headers["Retry-After"]), 5))
            continue
        found = said(text) if answer.headers["Content-Type"].startswith(EVENTS) else json.loads(text)
        wrong = differs(found, expected) or (status == 422) != ("error" in expected and not streamed)
        line = {
            "verb": verb,
            "seconds": took,
            "streamed": streamed,
            "wrong": [status, job, found, expected] if wrong else None,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)


def said(text: str) -> Any:
    """The last event of a stream."""
    return json.loads(text.rstrip().rpartition("data: ")[2])


# -- the whole ------------------------------------------------------------------------------------------------------------


def memory(pid: int) -> float:
    """Resident MiB of a process (Linux)."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def started(words: list[str]) -> tuple[subprocess.Popen[str], str, int]:
    """A service, and where it listens."""
    command = [sys.executable, "-m", "textdiff", "serve", "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listening at http://([\d.]+):(\d+) ", line)
        if found:
            return process, found[1], int(found[2])
        print(line, end="", file=sys.stderr)
    raise SystemExit("the service did not start")


def tiny(folder: Path) -> str:
    """The model of the tests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from tiny import poem_model, saved

    return saved(poem_model(form="wuyan-jueju"), folder / "tiny")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="a folder or hub id (the packaged model)")
    p.add_argument("--tiny", action="store_true", help="the tiny model of the tests")
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--requests", type=int, default=80, help="different ones")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--seed", type=int, default=0, help="of whom is killed, and who asks what")
    p.add_argument("--threads", default="1")
    p.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.client:
        host, port, known, seed = a.client
        client(host, int(port), Path(known), int(seed), a.seconds)
        return 0
    with tempfile.TemporaryDirectory() as name:
        return measured(a, Path(name))


def measured(a: argparse.Namespace, folder: Path) -> int:
    model = tiny(folder) if a.tiny else a.model
    asked = requests(a.requests, a.steps)
    known = folder / "known.json"
    cases = [[*one, expected] for one, expected in zip(asked, answers(model, asked), strict=True)]
    known.write_text(json.dumps(cases, ensure_ascii=False), encoding="utf-8")
    service, host, port = started(["--threads", a.threads, *(["--model", model] if model else [])])
    chance, began, number, kills = random.Random(a.seed), time.monotonic(), 0, 0
    clients: list[subprocess.Popen[bytes]] = []
    sizes = [memory(service.pid)]
    left = lambda: a.seconds - (time.monotonic() - began)  # noqa: E731

    def begin() -> None:
        nonlocal number
        words = [sys.executable, __file__, "--client", host, str(port), str(known), str(a.seed * 10**6 + number)]
        with (folder / f"client-{number}").open("wb") as out:
            clients.append(subprocess.Popen([*words, "--seconds", str(max(0.1, left()))], stdout=out))
        number += 1

    for _ in range(a.clients):
        begin()
    while left() > 2:
        time.sleep(1)
        victim = clients.pop(chance.randrange(len(clients)))
        if victim.poll() is None:
            victim.send_signal(signal.SIGKILL)
            kills += 1
        victim.wait()
        begin()
        sizes.append(memory(service.pid))
    for one in clients:
        one.wait()
    took = time.monotonic() - began
    time.sleep(1)
    sizes.append(memory(service.pid))
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    connection.close()
    service.send_signal(signal.SIGTERM)
    code = service.wait(90)
    return report(folder, took, kills, sizes, metrics, code)


def report(folder: Path, took: float, kills: int, sizes: list[float], metrics: str, code: int) -> int:
    lines = []
    for path in folder.glob("client-*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # half a line of a client that was killed
                lines.append(json.loads(line))
    done = [line for line in lines if "verb" in line]
    wrong, failed = [line for line in done if line["wrong"]], [line for line in lines if "failed" in line]
    print(f"{len(done)} answers in {took:.0f} s, {len(done) / took:.1f} a second; {len(wrong)} wrong, {len(failed)} failed, "
          f"{sum('full' in line for line in lines)} told to come again; {kills} clients killed")  # fmt: skip
    for verb, count in sorted(Counter(line["verb"] for line in done).items()):
        times = [line["seconds"] for line in done if line["verb"] == verb]
        cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
        print(f"{verb:9} {count:6}  median {cuts[49]:.3f} s, 90 % {cuts[89]:.3f} s, 99 % {cuts[98]:.3f} s")
    eighths = [f"{sizes[k * (len(sizes) - 1) // 8]:.0f}" for k in range(9)]
    print(f"memory {', '.join(eighths)} MiB after each eighth of the time, at most {max(sizes):.0f}")
    texts, batches = (
        sum(
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith(f"textdiff_batch_texts_{what}{{")
        )
        for what in ("sum", "count")
    )
    left = sum(float(line.split()[-1]) for line in metrics.splitlines() if 'status="499"' in line and "_total{" in line)
    print(
        f"{texts / max(1, batches):.1f} texts a batch; {left:.0f} requests whose caller left; exit code {code} after SIGTERM"
    )
    for line in (wrong + failed)[:3]:
        print(json.dumps(line, ensure_ascii=False))
    return int(bool(wrong or failed or code != 128 + signal.SIGTERM or not done))


if __name__ == "__main__":
    sys.exit(main())
