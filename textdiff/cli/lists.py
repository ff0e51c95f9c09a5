"""verify, animate, and the lists: forms, samplers, env."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textdiff import __version__
from textdiff.cli.common import Exit, add_verb, json_lines, log, writing
from textdiff.core.errors import AskedError


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "animate", animate)
    p.add_argument("trace", metavar="TRACE", help="a file of --trace")
    p.add_argument("--out", metavar="FILE", required=True, help="a name that ends in .html, .svg or .gif")
    p.add_argument("-n", type=int, help="the first so many texts (all)")
    p.add_argument("--delay", type=float, default=0.25, help="seconds a state (0.25)")
    p.add_argument("--font", metavar="FILE", help="for GIF: a font with the characters (one of the system's)")

    p = add_verb(verbs, "verify", verify, epilog=_COLUMNS)
    p.add_argument("--full", action="store_true", help="larger spaces, more step counts; some minutes")
    p.add_argument("--process", help="this one only: a name, or your own as module:attribute")
    p.add_argument("--sampler", help="this one only: a name, or your own as module:attribute")
    p.add_argument(
        "--claim",
        choices=("exact", "approximate"),
        help="what is claimed (the table's; approximate for your own)",
    )
    p.add_argument("--json", action="store_true", help="JSON Lines")

    for name, run in (("forms", forms), ("samplers", samplers), ("env", env)):
        add_verb(verbs, name, run).add_argument("--json", action="store_true", help="JSON Lines")


_COLUMNS = """columns:
  sampler      with the values of its options; `refresh` has a row for the default share, and one for a larger share
  from p(x1)   total variation of the law of results from p(x0), started from the exact law at level 1; of values (D=2) the
               2-Wasserstein distance
  prior        the same, started from the prior that ships
  one          the same on texts of one position, where every sampler must be exact
  astray       probability of a result that shows [MASK] or another given text, which must be 0
  excess       the likelihood bound minus the entropy, nats; - where the process has no bound
  forwards     predictor evaluations of a text, on average

"mask, in form" keeps tones and a rhyme: there `one` is the distance of one draw from the product restricted to them, or that
of the chain with its particles' weights from p(x0 | in form), whichever is larger; astray is what breaks tones and rhyme, and
`from p(x1)` the gap between the chain and p(x0 | in form), which is not claimed to be 0.  "mask, matching" does the same for
a regular expression that the whole text matches.

For values (gaussian, cold) the distance is the 2-Wasserstein distance to the exact law, by a mean of p(x0 | x_t) alone; `one`
is that of one dimension by all of p(x0 | x_t).  Where noise is left at level 0 (cold), the law with that noise counts, too.
For embedded texts it is a total variation by the marginals, over 10,000 draws; `one` and excess are by quadrature on two
tokens.  Where a sampler draws no x̂0 (heun, interpolation), `one` is with a known x0.

Every "exact", and the columns one and astray, hold to 1e-6, and a distance "in limit" falls with four times the steps, or
the row is BROKEN and the exit code 1."""


def animate(a: argparse.Namespace) -> None:
    from textdiff.show import animation, films, trace

    kind = Path(a.out).suffix.lower().removeprefix(".")
    if kind not in films.KINDS:
        raise AskedError(f"--out is {a.out!r}, expected a name that ends in .html, .svg or .gif; name it so")
    whole = trace.read(a.trace)
    shown = whole if a.n is None else animation.first(whole, a.n)
    moving: Any = animation
    if whole.header.get("images"):
        moving = importlib.import_module("textdiff.show.mosaic")  # meets torch
    with writing(a.out) as out:
        if kind == "gif":
            out.buffer.write(moving.gif(shown, a.delay, a.font))
        else:
            out.write(moving.html(shown, a.delay) if kind == "html" else moving.svg(shown, a.delay))


def verify(a: argparse.Namespace) -> int:
    from tqdm import tqdm

    from textdiff.processes import PROCESSES
    from textdiff.verify.laws import verify_laws
    from textdiff.verify.walk import verify as walk

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        yield from tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    def shown(figure: float, width: int) -> str:
        return f"{figure:{width}.4f}" if figure >= 1e-4 else f"{figure:{width}.0e}"

    broken = total = 0
    for row in walk(full=a.full, process=a.process, sampler=a.sampler, claim=a.claim, progress=progress):
        if a.json:
            print(json.dumps(dataclasses.asdict(row) | {"ok": row.ok}), flush=True)
        else:
            if not total:
                print(
                    f"{'space':9} {'process':13} {'sampler':28} {'steps':>5}  {'claim':11} {'from p(x1)':>10} {'prior':>7} "
                    f"{'one':>7} {'astray':>7} {'excess':>7} {'forwards':>8}"
                )
            excess = "-" if row.excess is None else f"{round(row.excess, 4) + 0.0:.4f}"  # no minus zero
            print(
                f"{row.space:9} {row.process:13} {f'{row.sampler} {row.options}':28} {row.steps:5}  {row.claim:11} "
                f"{shown(row.total_variation, 10)} {shown(row.shipped_prior, 7)} {shown(row.one_position, 7)} "
                f"{shown(row.astray, 7)} {excess:>7} {row.forwards:8.2f}" + ("" if row.ok else "  BROKEN"),
                flush=True,
            )
        broken += not row.ok
        total += 1
    of_values = a.process in PROCESSES and PROCESSES[a.process].data == "values"
    if a.sampler is None and (a.process is None or of_values):
        for law in verify_laws(progress):
            record = dataclasses.asdict(law) | {"ok": law.ok}
            line = f"{law.law:56} {law.gap:8.1e}  at most {law.limit:.0e}" + ("" if law.ok else "  BROKEN")
            print(json.dumps(record) if a.json else line, flush=True)
            broken += not law.ok
            total += 1
    if broken:
        log(
            f"textdiff: {broken} of {total} rows are broken: a claim of exactness, one position, given text or an identity"
        )
    return Exit.FAILED if broken else Exit.DONE


def forms(a: argparse.Namespace) -> None:
    from textdiff.verse.forms import FORMS, SIZED_FORMS, tunes

    if a.json:
        regular = [{"name": f.name, "chinese": f.chinese, "lines": f.lines, "width": f.width} for f in FORMS.values()]
        json_lines(
            regular
            + [{"name": f.name, "chinese": f.chinese, "lines": f.lines, "widths": f.widths} for f in tunes().values()]
        )
        return
    for form in FORMS.values():
        print(f"{form.name:12}  {form.chinese}  {form.short}  {form.lines} lines of {form.width} characters")
    for form in tunes().values():
        print(
            f"{form.name:12}  {form.chinese}  词, {form.lines} lines of {', '.join(map(str, form.widths))} characters"
        )
    for name, what in SIZED_FORMS.items():
        print(f"{name:12}  {what}")


def samplers(a: argparse.Namespace) -> None:
    from textdiff.samplers import SAMPLERS

    if a.json:
        shown = ("path", "processes", "exact", "cost", "summary", "options")
        json_lines({"name": name, **{key: getattr(entry, key) for key in shown}} for name, entry in SAMPLERS.items())
        return
    print(f"{'sampler':16}  {'serves (* exactly)':40}  {'forwards':32}  what it does")
    for name, entry in SAMPLERS.items():
        served = ", ".join(process + "*" * (process in entry.exact) for process in entry.processes)
        options = f" [{', '.join(entry.options)}]" if entry.options else ""
        print(f"{name:16}  {served:40}  {entry.cost:32}  {entry.summary}{options}")


def env(a: argparse.Namespace) -> None:
    import platform
    from importlib import metadata

    import torch

    from textdiff.networks.lean.products import bf16_pays

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    facts: dict[str, Any] = {
        "textdiff": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in ("torch", "transformers", "tokenizers", "safetensors", "datasets", "accelerate", "numpy"):
        facts[name] = version(name)
    facts["cpu"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = torch.get_num_threads()
    facts["precision"] = "bf16" if bf16_pays() else "float32"  # what "auto" is here
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if a.json:
        print(json.dumps(facts))
        return
    for name, fact in facts.items():
        print(f"{name:14}{fact}")
