"""Poems revised: the characters that fit least are written anew, and the new version stays where it is likelier.

With q the mask process's prediction for one hole, a poem x of n characters has

    nats_i(x) = −log q(x_i | all others),        score(x) = 1/n Σ_i nats_i(x)                                         (1)

and a round rewrites k characters together, several times from streams of the poem's own seed, and takes the version with
the least score if that is less than before.  Every character is judged by its neighbours here, and the easiest way to suit
them is to repeat them; so a version in which more characters stand twice than in the poem is never taken.

    mask         the k free characters with the most nats are masked and filled; after a round without gain the next k
    others       the poem itself is x_t at level k/n: the chain walks down, and the network decides what it changes

The bound on −log p of the whole poem is given beside the score: no version was chosen by it, and so it is the check.

Strict prosody: a poem that breaks it is mended first, whatever the score.  Of all patterns and rhyme groups the one is
taken under which the fewest characters break it (of these, the ones with the most nats), and those are masked and filled
under the law.  From then on every version keeps the law, as the draws do.  So it is with an expression that is to match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.errors import AskedError
from textdiff.core.rng import example_seed
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.options import Task, at_least
from textdiff.pipeline.outputs import Change, Refined
from textdiff.pipeline.page import knows_forms, outside, script_of
from textdiff.pipeline.plan import Plan, by_process
from textdiff.pipeline.revision.versions import FIRST, Try, drawn, masked, never, versions
from textdiff.pipeline.run import Left
from textdiff.pipeline.score.likelihood import MERIT_LEVELS, Progress, bounds, masking, nats
from textdiff.pipeline.writable import broken, check_canvas
from textdiff.processes import PROCESSES
from textdiff.verse.forms import Form

CANDIDATES = FIRST  # versions a round, where best_of is left out
LEVEL = 0.25  # of variations
GAIN = 1e-6  # nats a character: less is rounding


@dataclass(frozen=True, eq=False)
class Draft:
    """A poem that is worked on."""

    given: Canvas  # free: the characters of the poem that may be rewritten; what is not shown is hidden
    shown: Tensor  # (L,) bool, the poem's own positions
    form: Form
    lines: tuple[str, ...]  # as written
    first: Tensor  # (L,) the ids it came with
    ids: Tensor  # (L,) as it stands
    nats: Tensor  # (L,) float64, (1) of ids; 0 where not shown
    seed: int
    mended: Tensor  # (L,) bool
    gone: Callable[[], bool]  # whether nobody waits for it any more
    rounds: int = 0
    idle: int = 0  # rounds in a row without gain

    @property
    def places(self) -> Tensor:
        """The poem's own positions in the order of the text, (n,)."""
        return self.given.places(self.shown)

    @property
    def score(self) -> float:
        """(1), nats a character."""
        return self.nats.sum().item() / int(self.shown.sum())

    @property
    def repeats(self) -> int:
        """Characters that stand in the poem before."""
        return int(self.shown.sum()) - len(set(self.ids[self.shown].tolist()))


def refine(
    model: TextModel,
    texts: Sequence[str],
    seeds: Sequence[int],
    plan: Plan,
    task: Task,
    batch_size: int = 64,
    callback: Progress | None = None,
    left: Left | None = None,
) -> list[Refined]:
    """What `TextPipeline.refine` gives: a poem each, or `task.variations` a poem; of those that `left`, as it stands by then."""
    at_least("batch_size", batch_size, 1)
    if masking(model) is None:
        raise AskedError(f"model {model.name} does not serve the mask process, which the scores of a revision need")
    if task.variations is not None and plan.best_of > 1:
        raise AskedError(f"best_of is {plan.best_of}, but a variation is one draw; leave it (and quality) out")
    options, work = plan.options, Work(model, replace(plan, best_of=1), task, batch_size)
    wholes = canvas.about_all(
        canvas.read_all(canvas.whole, texts, model, options.form), model, options.title, options.dynasty
    )
    drafts = []
    for k, (one, text, seed) in enumerate(zip(wholes, texts, seeds, strict=True)):
        with canvas.numbered(k):
            drafts.append(_draft(work, one, text, seed, never if left is None else partial(left, k)))
    for k, draft in enumerate(drafts):
        with canvas.numbered(k):
            check_canvas(model, draft.given, plan)
    scores = work.nats(drafts, [draft.ids for draft in drafts])
    drafts = [replace(draft, nats=one) for draft, one in zip(drafts, scores, strict=True)]
    first = [draft.score for draft in drafts]
    if plan.prosody.strict or plan.match is not None:
        drafts = _mended(work, drafts)
    if task.variations is None:
        ends = [[draft] for draft in _rounds(work, drafts, callback)]
    else:
        ends = _variations(work, drafts, task.variations)
    results = _results(work, wholes, ends, first)
    if callback is not None and task.variations is not None:
        callback(len(texts))
    return results


@dataclass(frozen=True, eq=False)
class Work:
    """What all steps of a revision need."""

    model: TextModel
    plan: Plan  # of a single draw
    task: Task
    batch_size: int

    @property
    def masks(self) -> bool:
        """Whether characters are masked and filled; other processes start from the poem itself."""
        return PROCESSES[self.plan.process].masks

    def nats(self, drafts: Sequence[Draft], texts: Sequence[Tensor]) -> list[Tensor]:
        """(1) of ids (L,) in the place of each draft's, (L,) float64 each."""
        canvases, shown = [draft.given for draft in drafts], [draft.shown for draft in drafts]
        return nats(self.model, canvases, texts, shown, self.batch_size)


def _draft(work: Work, one: Canvas, text: str, seed: int, gone: Callable[[], bool]) -> Draft:
    model, task, process = work.model, work.task, work.plan.process
    if one.form is None:
        raise AskedError("text has no poem's form, and only poems are revised; pass one, or fill holes with 'fill'")
    form, shown = one.form, one.free
    if PROCESSES[process].data != "tokens":
        raise AskedError(f"process {process!r} has no tokens to start a revision from; revise by mask")
    if one.hidden is not None and not work.masks:
        raise AskedError(f"process {process!r} cannot leave the rest of an octave unknown; revise a couplet by mask")
    lines = tuple(form.split(text))
    places = one.places(shown)
    unknown = (one.ids[places] == model.unk_id).nonzero()[:, 0].tolist() if model.unk_id is not None else []
    if unknown:
        line, character = form.place(unknown[0])
        raise outside(lines[line][character], f"line {line + 1}, character {character + 1}", "write another character")
    frozen = torch.zeros(form.length, dtype=torch.bool)
    for line in task.keep:
        if not 1 <= line <= form.lines:
            raise AskedError(
                f"keep has line {line}, but form {form.name!r} has lines 1 to {form.lines}; name one of these"
            )
        frozen[form.starts()[line - 1] :][: form.widths[line - 1]] = True
    for line, character in task.freeze:
        if not (1 <= line <= form.lines and 1 <= character <= form.widths[line - 1]):
            raise AskedError(
                f"freeze has {line}:{character}, but form {form.name!r} has {form.lines} lines of {form.width} characters; "
                f"count lines and characters from 1"
            )
        frozen[form.starts()[line - 1] + character - 1] = True
    left = int((~frozen).sum())
    if not left:
        raise AskedError("every character is kept or frozen, and nothing is left to rewrite; keep fewer")
    if task.variations is None and task.k > left:
        raise AskedError(f"k is {task.k}, but {left} characters are free; rewrite at most so many at a time")
    free = torch.zeros_like(shown).index_copy(0, places, ~frozen)
    given = replace(one, ids=torch.where(free, model.mask_id, one.ids), free=free)
    nothing = torch.zeros_like(shown)
    return Draft(given, shown, form, lines, one.ids, one.ids, nothing.double(), seed, nothing, gone)


# -- draws ----------------------------------------------------------------------------------------------------------------


def _tried(work: Work, tries: Sequence[Sequence[Try[Draft]]], plan: Plan) -> list[Draft | None]:
    """The best end of each draft's tries by a plan, one draft and at least one try to each."""
    ends = iter(drawn(work.model, [one for some in tries for one in some], plan, work.batch_size))
    return _best(work, [some[0].text for some in tries], [[next(ends) for _ in some] for some in tries])


def _best(work: Work, drafts: Sequence[Draft], versions: Sequence[Sequence[Tensor]]) -> list[Draft | None]:
    """Each draft with the version of the least score, of all that repeat no more than the draft; None without another text."""
    different = [list({tuple(v.tolist()): v for v in some}.values()) for some in versions]
    different = [[v for v in some if not torch.equal(v, d.ids)] for d, some in zip(drafts, different, strict=True)]
    flat = [draft for draft, some in zip(drafts, different, strict=True) for _ in some]
    scored = iter(work.nats(flat, [version for some in different for version in some]))
    results: list[Draft | None] = []
    for draft, some in zip(drafts, different, strict=True):
        after = [replace(draft, ids=version, nats=next(scored)) for version in some]
        results.append(min(after, key=lambda one: (max(one.repeats, draft.repeats), one.score), default=None))
    return results


# -- rounds ---------------------------------------------------------------------------------------------------------------


def weakest(nats: Tensor, free: Tensor, k: int, skip: int = 0) -> Tensor:
    """The k free positions with the most nats, (L,) bool, after `skip` that have more; around to the first again."""
    order = torch.where(free, nats, -torch.inf).argsort(descending=True, stable=True)[: int(free.sum())]
    return torch.zeros_like(free).index_fill(0, order.roll(-skip)[:k], True)


def _rounds(work: Work, drafts: Sequence[Draft], callback: Progress | None) -> list[Draft]:
    """The drafts at the end of their work."""
    task, current = work.task, list(drafts)
    at_work = list(range(len(current)))
    for number in range(1, task.rounds + 1):
        tries = [
            [
                Try(current[i], number * task.candidates + j, task.k, _start(work, current[i]))
                for j in range(task.candidates)
            ]
            for i in at_work
        ]
        best = _tried(work, tries, work.plan)
        for i, after in zip(at_work, best, strict=True):
            current[i] = _next(current[i], after, number)
        going = [
            i for i in at_work if current[i].idle < task.patience and number < task.rounds and not current[i].gone()
        ]
        if callback is not None and len(going) < len(at_work):
            callback(len(at_work) - len(going))
        at_work = going
        if not at_work:
            break
    return current


def _next(before: Draft, after: Draft | None, number: int) -> Draft:
    """What a round leaves."""
    if after is None or after.score >= before.score - GAIN or after.repeats > before.repeats:
        return replace(before, rounds=number, idle=before.idle + 1)
    return replace(after, rounds=number, idle=0)


def _start(work: Work, draft: Draft) -> Tensor:
    """x_t at level k/n."""
    if not work.masks:
        return draft.ids
    where = weakest(draft.nats, draft.given.free, work.task.k, skip=draft.idle * work.task.k)
    return masked(draft.ids, where, work.model.mask_id)


# -- variations -----------------------------------------------------------------------------------------------------------


def _variations(work: Work, drafts: Sequence[Draft], n: int) -> list[list[Draft]]:
    """n versions of each draft, unlike the poem and one another where some draw is."""
    share = LEVEL if work.task.level is None else work.task.level
    found = versions(
        work.model,
        drafts,
        work.plan,
        n,
        share,
        work.batch_size,
        known=[(draft.first, draft.ids) for draft in drafts],
        first=work.task.candidates,
    )
    flat = [(draft, one.ids) for draft, some in zip(drafts, found, strict=True) for one in some]
    scores = work.nats([draft for draft, _ in flat], [ids for _, ids in flat])
    after = [replace(d, ids=x, nats=one, rounds=1) for (d, x), one in zip(flat, scores, strict=True)]
    return [after[i * n : (i + 1) * n] for i in range(len(drafts))]


# -- strict prosody, and match ---------------------------------------------------------------------------------------------


def _mended(work: Work, drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts within the law, or matching; whatever breaks it is masked and filled."""
    wrong = []
    for draft in drafts:
        frozen = draft.shown & ~draft.given.free
        wrong.append(broken(work.model, draft.given, work.plan, draft.ids, frozen, draft.nats))
    open_ = [i for i, where in enumerate(wrong) if where.any()]
    if not open_:
        return list(drafts)
    tries = [
        [
            Try(drafts[i], j, int(wrong[i].sum()), masked(drafts[i].ids, wrong[i], work.model.mask_id))
            for j in range(work.task.candidates)
        ]
        for i in open_
    ]
    best = _tried(work, tries, by_process(work.plan, str(masking(work.model))))
    result = list(drafts)
    for i, after in zip(open_, best, strict=True):
        assert after is not None or drafts[i].gone(), "a filling under the law is another text than one that breaks it"
        result[i] = drafts[i] if after is None else replace(after, mended=wrong[i])
    return result


# -- results --------------------------------------------------------------------------------------------------------------


def _results(
    work: Work, wholes: Sequence[Canvas], ends: Sequence[Sequence[Draft]], first: Sequence[float]
) -> list[Refined]:
    flat = [(i, v, draft) for i, drafts in enumerate(ends) for v, draft in enumerate(drafts)]
    before = _bounds(work, wholes, [drafts[0].gone for drafts in ends])
    after = _bounds(
        work, [replace(wholes[i], ids=draft.ids) for i, _, draft in flat], [draft.gone for *_, draft in flat]
    )
    results = []
    for (i, v, draft), bound in zip(flat, after, strict=True):
        text = _written(work, draft)
        now = draft.form.split(text)
        new = (draft.ids != draft.first)[draft.places].tolist()
        places = [draft.form.place(k) for k, changed in enumerate(new) if changed]
        mended = [draft.form.place(k) for k, broke in enumerate(draft.mended[draft.places].tolist()) if broke]
        results.append(
            Refined(
                before=draft.form.layout(draft.lines),
                after=text,
                form=draft.form.name,
                score_before=first[i],
                score_after=draft.score,
                bound_before=before[i],
                bound_after=bound,
                changed=tuple(Change(k + 1, j + 1, draft.lines[k][j], now[k][j]) for k, j in places),
                mended=tuple((k + 1, j + 1) for k, j in mended),
                rounds=draft.rounds,
                variation=None if work.task.variations is None else v + 1,
                seed=draft.seed,
                process=work.plan.process,
                sampler=work.plan.sampler,
                model=work.model.name,
            )
        )
    return results


def _bounds(work: Work, wholes: Sequence[Canvas], gone: Sequence[Callable[[], bool]]) -> list[float]:
    """The mask process's bound, nats a character; every text meets the same corruptions."""
    seeds = [[example_seed(0, 0)]] * len(wholes)
    name = str(masking(work.model))
    totals = bounds(work.model, wholes, seeds, name, MERIT_LEVELS, work.batch_size, left=lambda k: gone[k]())[:, 0]
    return [total / one.shape[1] for total, one in zip(totals.tolist(), wholes, strict=True)]


def _written(work: Work, draft: Draft) -> str:
    """The poem as it stands; what has not changed as it was written."""
    new = iter((draft.ids != draft.first)[draft.places].tolist())
    holed = ["".join(canvas.HOLE if next(new) else c for c in line) for line in draft.lines]
    if holed == list(draft.lines):
        return draft.form.layout(draft.lines)
    one = canvas.holed("\n".join(holed), work.model, draft.form, verse=knows_forms(work.model))
    name = work.plan.options.script or script_of("".join(draft.lines), work.model)
    return canvas.in_script(one, name).text(draft.ids)
