"""A table and a picture of the figures that `image_report.report` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.measure import plots
from textdiff.measure.images import NEAR
from textdiff.measure.intervals import Interval, written


def table(figures: Mapping[str, Any]) -> str:
    """The figures of a report as text for people."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    counts = figures["images"]
    yield f"{figures['model']}: beside {counts['held_out']} held-out and {counts['train']} training images; 95 % intervals"
    if figures["classifier"]:
        yield f"  classifier      {_cell(figures['classifier'])} of the held-out images recognised"
    for name in ("conditional", "unconditional"):
        if name in figures:
            yield f"  {name}"
            yield from _headline(figures[name])
    if figures.get("ladder"):
        yield ""
        yield f"  {'sampler':9} {'steps':>5} {'calls':>5}  {'recognised':20} {'fréchet':21} {'× real':>6}  energy distance, p"
        for row in figures["ladder"]:
            share = _cell(row["fidelity"]) if "fidelity" in row else "-"
            apart = _cell(row["frechet"], 2) if "frechet" in row else "-"
            ratio = f"{row['frechet_ratio']:.2f}" if "frechet" in row else "-"
            energy = f"{_cell(row['energy'], 4)}, {row['energy']['p']:.3f}"
            yield (
                f"  {row['sampler']:9} {row['steps']:5} {row['evaluations']:5.0f}  {share:20} {apart:21} {ratio:>6}  {energy}"
            )
    if figures.get("bounds"):
        yield ""
        headings = f"{'bits/dimension':>16} {'analytic variance':>20} {'gained':>24} {'by error':>16} {'in bins':>16}"
        yield f"  {'bound of':8} {headings}  images"
        for row in figures["bounds"]:
            kinds = ("ddpm", "analytic", "analytic_by_error", "in_bins")
            cells = [_plus_minus(row[name]) if name in row else "-" for name in kinds]
            gained = _cell(row["gain_analytic"], 4)
            line = f"{cells[0]:>16} {cells[1]:>20} {gained:>24} {cells[2]:>16} {cells[3]:>16}"
            yield f"  {row['steps']:8} {line}  {row['images']:6}"
    if figures.get("restoring"):
        yield ""
        yield f"  {'from':>5} {'way':9} {'steps':>5}  {'error a pixel':22} {'fréchet':>8}  recognised"
        for row in figures["restoring"]:
            apart = f"{row['frechet']['value']:.2f}" if "frechet" in row else "-"
            share = _cell(row["fidelity"]) if "fidelity" in row else "-"
            yield f"  {row['level']:5g} {row['way']:9} {row['steps']:5}  {_cell(row['error']):22} {apart:>8}  {share}"


def _headline(row: Mapping[str, Any]) -> Iterator[str]:
    if "fidelity" in row:
        yield f"    recognised    {_cell(row['fidelity'])} as the class that was asked for"
    if "coverage" in row:
        shares = row["coverage"]["shares"]
        yield f"    classes       entropy {row['coverage']['entropy']:.4f} of 1, shares {min(shares):.3f} to {max(shares):.3f}"
    if "frechet" in row:
        real = f"{_cell(row['frechet_real'], 2)} real to real"
        yield f"    fréchet       {_cell(row['frechet'], 2)}; {real}; {row['frechet_ratio']:.2f} times"
    ours, theirs = row["energy"], row["energy_real"]
    yield f"    energy        {_cell(ours, 4)}, p {ours['p']:.3f}; {_cell(theirs, 4)}, p {theirs['p']:.3f} real to real"
    copies = row["copying"]
    near = f"{_cell(copies['near'])} nearer than the nearest {NEAR:.0%} of real ones"
    yield f"    nearest train {copies['generated']:.3f}, real {copies['held_out']:.3f} a pixel (medians); {near}"


def _cell(figure: Mapping[str, Any], digits: int = 3) -> str:
    return written(_interval(figure), digits)


def _interval(figure: Mapping[str, Any]) -> Interval:
    return Interval(figure["value"], figure["low"], figure["high"])


def _plus_minus(figure: Mapping[str, Any]) -> str:
    value, high = figure["value"], figure["high"]
    return f"{value:.3f}" + ("" if high is None else f" ± {high - value:.3f}")


def plot(figures: Mapping[str, Any], path: str | Path) -> None:
    """Draws the ladder, or the errors of restored images, into a file; needs matplotlib."""
    plots.check(path)
    panels: list[Callable[[Any], None]] = []
    if figures.get("ladder"):
        panels = [lambda axis: _steps(axis, figures, "frechet_ratio"), lambda axis: _steps(axis, figures, "energy")]
        panels.append(lambda axis: _bits(axis, figures))
    if figures.get("restoring"):
        panels = [lambda axis, name=name: _errors(axis, figures, name) for name in ("error", "frechet")]  # type: ignore[misc]
    if not panels:
        raise AskedError(f"model {figures['model']} has no figures over steps to draw; leave the picture out")
    figure = plots.figure(4.2 * len(panels), 3.6)
    for axis, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axis)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    plots.save(figure, path)


def _steps(axis: Any, figures: Mapping[str, Any], what: str) -> None:
    """One figure over the evaluations of the network, a line for each sampler, beside the same figure of real images."""
    names = list(dict.fromkeys(row["sampler"] for row in figures["ladder"]))
    for k, name in enumerate(names):
        rows = [row for row in figures["ladder"] if row["sampler"] == name and what in row]
        apart = 1.05 ** (k - len(names) / 2 + 0.5)  # so that error bars do not cover each other
        x = [row["evaluations"] * apart for row in rows]
        if what == "frechet_ratio":
            axis.plot(x, [row[what] for row in rows], "o-", ms=3, color=f"C{k}", label=name)
        else:
            value = [row[what]["value"] for row in rows]
            reach = plots.reach(_interval(row[what]) for row in rows)
            axis.errorbar(x, value, reach, fmt="o-", ms=3, capsize=2, color=f"C{k}", label=name)
    _axis(axis, [row["evaluations"] for row in figures["ladder"]], "evaluations of the network")
    if what == "frechet_ratio":
        axis.axhline(1, color="0.6", lw=1)
        axis.set_ylim(bottom=0)
        axis.set_title("Fréchet distance, times real to real", fontsize=9)
    else:
        real = figures["ladder"][0]["energy_real"]
        if real["low"] is not None:
            axis.axhspan(real["low"], real["high"], color="0.85", label="real to real")
        axis.set_title("energy distance to held-out images", fontsize=9)


def _bits(axis: Any, figures: Mapping[str, Any]) -> None:
    x = [row["steps"] for row in figures["bounds"]]
    for name, label in (("ddpm", "DDPM variance"), ("analytic", "analytic variance"), ("in_bins", "law over the bins")):
        if name in figures["bounds"][0]:
            axis.plot(x, [row[name]["value"] for row in figures["bounds"]], "o-", ms=3, label=label)
    _axis(axis, x, "steps of the bound")
    axis.set_title("bits per dimension, held-out images", fontsize=9)


def _errors(axis: Any, figures: Mapping[str, Any], what: str) -> None:
    rows = [row for row in figures["restoring"] if what in row]
    for k, level in enumerate(dict.fromkeys(row["level"] for row in rows)):
        for way, line in (("naive", "o--"), ("improved", "o-")):
            part = [row for row in rows if row["level"] == level and row["way"] == way]
            label = f"{way}, from level {level:g}"
            axis.plot(
                [r["steps"] for r in part], [r[what]["value"] for r in part], line, ms=3, color=f"C{k}", label=label
            )
    _axis(axis, [row["steps"] for row in rows if row["steps"]], "steps")
    axis.set_title({"error": "error a pixel", "frechet": "Fréchet distance to the originals"}[what], fontsize=9)


def _axis(axis: Any, x: Sequence[float], name: str) -> None:
    """Make the axis of x logarithmic, with a tick at each number that occurs."""
    axis.set_xscale("log")
    axis.set_xticks(sorted({*x}), [f"{value:g}" for value in sorted({*x})])
    axis.minorticks_off()
    axis.set_xlabel(name)
