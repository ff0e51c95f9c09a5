"""Poems revised: the characters that fit least are written anew, and the new version stays where it is likelier.

With q the mask process's prediction for one hole, a poem x of n characters has

    nats_i(x) = −log q(x_i | all others),        score(x) = 1/n Σ_i nats_i(x)                                         (1)

and a round rewrites k characters together, several times from streams of the poem's own seed, and takes the version with
the least score if that is less than before.  Every character is judged by its neighbours here, and the easiest way to suit
them is to repeat them; so a version in which more characters stand twice than in the poem is never taken.

    mask         the k free characters with the most nats are masked and filled; after a round without gain the next k
    others       the poem itself is x_t at level k/n: the chain walks down, and the network decides what it changes

The bound on −log p of the whole poem is given beside the score: it was not asked, and so it is the check.

Strict prosody: a poem that breaks it is mended first, whatever the score.  Of all patterns and rhyme groups the one is
taken under which the fewest characters break it (of these, the ones with the most nats), and those are masked and filled
under the law.  From then on every version keeps the law, as the draws do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.core.rng import example_seed
from textdiff.pipeline import canvas
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.text import MERIT_LEVELS, Plan, Start
from textdiff.processes import PROCESSES
from textdiff.verse.forms import Form
from textdiff.verse.law import LEVEL as LEVEL_TONE
from textdiff.verse.law import OBLIQUE, Law, P, W, Z
from textdiff.verse.prosody import possible

if TYPE_CHECKING:
    from textdiff.pipeline.text import Forms, Pipeline

CANDIDATES = 4  # versions a round, where best_of is not told
LEVEL = 0.25  # of variations
TRIES = 4  # draws of a variation that comes out like the poem or another one
GAIN = 1e-6  # nats a character: less is rounding


@dataclass(frozen=True)
class Change:
    """One character of a poem that was rewritten, lines and characters counted from 1."""

    line: int
    character: int
    old: str
    new: str


@dataclass(frozen=True)
class Refined:
    """A poem before and after; its fields are the keys of a JSON line."""

    before: str
    after: str
    form: str
    score_before: float  # nats of a character given all the others, the mean over the poem
    score_after: float
    bound_before: float  # the mask process's bound on −log p, nats a character, of the same few corruptions
    bound_after: float
    changed: tuple[Change, ...]
    mended: tuple[tuple[int, int], ...]  # (line, character) that broke the prosody asked for, and were rewritten first
    rounds: int
    variation: int | None  # its number, from 1
    seed: int
    process: str
    sampler: str
    model: str


@dataclass(frozen=True)
class Asked:
    """What a caller wants of a revision; ValueError for what cannot be."""

    rounds: int
    k: int
    patience: int
    candidates: int
    keep: tuple[int, ...]  # lines, from 1
    freeze: tuple[tuple[int, int], ...]  # (line, character), from 1
    variations: int | None
    level: float | None

    def __post_init__(self) -> None:
        for name in ("rounds", "k", "patience", "variations"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise AskedError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if self.level is not None and self.variations is None:
            raise AskedError(f"level is {self.level}, which is for variations; pass how many, or leave it out")
        if self.level is not None and not 0 < self.level <= 1:
            raise AskedError(
                f"level is {self.level}; it must lie in (0, 1], the share of the free characters drawn anew"
            )


def place(told: str | Sequence[int]) -> tuple[int, int]:
    """(line, character) of "LINE:POSITION", or of the pair itself."""
    try:
        line, character = told.split(":") if isinstance(told, str) else told
        return int(line), int(character)
    except (TypeError, ValueError):
        raise AskedError(f"freeze has {told!r}; write LINE:POSITION, such as 3:5") from None


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
    rounds: int = 0
    idle: int = 0  # rounds in a row without gain

    @property
    def score(self) -> float:
        """(1), nats a character."""
        return self.nats.sum().item() / int(self.shown.sum())

    @property
    def repeats(self) -> int:
        """Characters that stand in the poem before."""
        return int(self.shown.sum()) - len(self.ids[self.shown].unique())


@dataclass(frozen=True, eq=False)
class Try:
    """A version to be drawn."""

    draft: Draft
    stream: int
    count: int  # corrupted positions that the chain starts from
    x: Tensor | None  # (L,) the state it starts from; None: the process corrupts the draft


def refine(
    pipe: Pipeline,
    texts: Sequence[str],
    form: Forms,
    seeds: Sequence[int],
    plan: Plan,
    asked: Asked,
    script: str | None = None,
    batch_size: int = 64,
    callback: Callable[[int], object] | None = None,
) -> list[Refined]:
    """What `Pipeline.refine` gives: a poem each, or `asked.variations` a poem."""
    if batch_size < 1:
        raise AskedError(f"batch_size is {batch_size}; it must be at least 1")
    _check(pipe, plan, asked)
    wholes = pipe._canvases(canvas.whole, texts, form)
    drafts = [
        _draft(pipe, one, text, seed, plan, asked, k)
        for k, (one, text, seed) in enumerate(zip(wholes, texts, seeds, strict=True))
    ]
    pipe._check_given([draft.given for draft in drafts], plan)
    scores = _nats(pipe, drafts, [draft.ids for draft in drafts], plan.told, batch_size)
    drafts = [replace(draft, nats=nats) for draft, nats in zip(drafts, scores, strict=True)]
    first = [draft.score for draft in drafts]
    if plan.prosody.strict:
        drafts = _mended(pipe, drafts, plan, asked, batch_size)
    if asked.variations is None:
        ends = [[draft] for draft in _rounds(pipe, drafts, plan, asked, batch_size, callback)]
    else:
        ends = _variations(pipe, drafts, plan, asked, asked.variations, batch_size)
    results = _results(pipe, wholes, ends, first, plan, asked, script, batch_size)
    if callback is not None and asked.variations is not None:
        callback(len(texts))
    return results


def _check(pipe: Pipeline, plan: Plan, asked: Asked) -> None:
    if "mask" not in pipe.model.processes:
        raise AskedError(
            f"model {pipe.model.name} does not serve the mask process, which the scores of a revision need"
        )
    if plan.particles is not None or plan.keyword is not None:
        name = "particles" if plan.particles is not None else "keyword"
        raise AskedError(f"{name} is for texts that are written from nothing; leave it out of a revision")
    if asked.variations is not None and plan.best_of > 1:
        raise AskedError(f"best_of is {plan.best_of}, but a variation is one draw; leave it (and quality) out")


def _draft(pipe: Pipeline, one: Canvas, text: str, seed: int, plan: Plan, asked: Asked, number: int) -> Draft:
    def wrong(what: str) -> AskedError:
        return AskedError(f"text {number + 1}: {what}" if number else what)

    if one.form is None:
        raise wrong("text has no poem's form, and only poems are revised; pass one, or fill holes with 'fill'")
    form, shown = one.form, one.free
    if PROCESSES[plan.process_name].data != "tokens":
        raise AskedError(f"process {plan.process_name!r} has no tokens to start a revision from; revise by mask")
    if one.hidden is not None and plan.process_name != "mask":
        raise wrong(
            f"process {plan.process_name!r} cannot leave the rest of an octave unknown; revise a couplet by mask"
        )
    lines = tuple(form.split(text))
    places = shown.nonzero()[:, 0]
    unknown = (one.ids[places] == pipe.model.unk_id).nonzero()[:, 0].tolist() if pipe.model.unk_id is not None else []
    if unknown:
        line, character = divmod(unknown[0], form.width)
        raise wrong(
            f"{lines[line][character]!r} (line {line + 1}, character {character + 1}) is outside the model's vocabulary; "
            f"write another character"
        )
    frozen = torch.zeros(form.length, dtype=torch.bool)
    for line in asked.keep:
        if not 1 <= line <= form.lines:
            raise wrong(f"keep has line {line}, but form {form.name!r} has lines 1 to {form.lines}; name one of these")
        frozen[(line - 1) * form.width : line * form.width] = True
    for line, character in asked.freeze:
        if not (1 <= line <= form.lines and 1 <= character <= form.width):
            raise wrong(
                f"freeze has {line}:{character}, but form {form.name!r} has {form.lines} lines of {form.width} characters; "
                f"count lines and characters from 1"
            )
        frozen[(line - 1) * form.width + character - 1] = True
    left = int((~frozen).sum())
    if not left:
        raise wrong("every character is kept or frozen, and nothing is left to rewrite; keep fewer")
    if asked.variations is None and asked.k > left:
        raise wrong(f"k is {asked.k}, but {left} characters are free; rewrite at most so many at a time")
    free = torch.zeros_like(shown).masked_scatter(shown, ~frozen)
    given = replace(one, ids=torch.where(free, pipe.model.mask_id, one.ids), free=free)
    nothing = torch.zeros_like(shown)
    return Draft(given, shown, form, lines, one.ids, one.ids, nothing.double(), seed, nothing)


# -- scores ---------------------------------------------------------------------------------------------------------------


def _nats(
    pipe: Pipeline, drafts: Sequence[Draft], texts: Sequence[Tensor], told: Mapping[str, Any], batch_size: int
) -> list[Tensor]:
    """(1) of ids (L,) in the place of each draft's, (L,) float64 each."""
    results = [torch.zeros(len(ids), dtype=torch.float64) for ids in texts]
    for rows in _alike([draft.form for draft in drafts]):
        pairs = [(row, at) for row in rows for at in drafts[row].shown.nonzero()[:, 0].tolist()]
        for k in range(0, len(pairs), batch_size):
            some = pairs[k : k + batch_size]
            x0 = torch.stack([texts[row] for row, _ in some])
            at = torch.tensor([at for _, at in some])
            log_q = pipe._alone(x0, at, drafts[rows[0]].form, told)
            for (row, place), nats in zip(some, (-log_q.gather(1, x0.gather(1, at[:, None])))[:, 0], strict=True):
                results[row][place] = nats
    return results


def _alike(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """The indices of equal keys together."""
    groups: dict[Hashable, list[int]] = {}
    for k, key in enumerate(keys):
        groups.setdefault(key, []).append(k)
    yield from groups.values()


# -- draws ----------------------------------------------------------------------------------------------------------------


def _drawn(pipe: Pipeline, tries: Sequence[Try], plan: Plan, batch_size: int) -> list[Tensor]:
    """The version that each try ends at, (L,) ids each."""
    results: dict[int, Tensor] = {}
    device = pipe.model.device
    for alike in _alike([(*one.draft.given.shape, one.count, one.x is None) for one in tries]):
        for k in range(0, len(alike), batch_size):
            rows = [tries[i] for i in alike[k : k + batch_size]]
            states = [one.x for one in rows if one.x is not None]
            start = Start(
                text=torch.stack([one.draft.ids for one in rows]).to(device),
                count=rows[0].count,
                x=torch.stack(states).to(device) if states else None,
            )
            canvases = [one.draft.given for one in rows]
            streams = [one.stream for one in rows]
            *_, last = pipe._states(canvases, [one.draft.seed for one in rows], plan, streams, start)
            results.update(zip(alike[k : k + batch_size], last.x.cpu(), strict=True))
    return [results[i] for i in range(len(tries))]


def _masked(draft: Draft, where: Tensor, mask_id: int) -> Tensor:
    return torch.where(where, mask_id, draft.ids)


def _tried(
    pipe: Pipeline, tries: Sequence[Sequence[Try]], drawn_by: Plan, plan: Plan, batch_size: int
) -> list[Draft | None]:
    """The best end of each draft's tries, one draft and at least one try to each."""
    ends = iter(_drawn(pipe, [one for some in tries for one in some], drawn_by, batch_size))
    versions = [[next(ends) for _ in some] for some in tries]
    return _best(pipe, [some[0].draft for some in tries], versions, plan, batch_size)


def _best(
    pipe: Pipeline, drafts: Sequence[Draft], versions: Sequence[Sequence[Tensor]], plan: Plan, batch_size: int
) -> list[Draft | None]:
    """Each draft with the version of the least score, of all that repeat no more than the draft; None without another text."""
    different = [list({tuple(v.tolist()): v for v in some}.values()) for some in versions]
    different = [[v for v in some if not torch.equal(v, d.ids)] for d, some in zip(drafts, different, strict=True)]
    flat = [draft for draft, some in zip(drafts, different, strict=True) for _ in some]
    scored = iter(_nats(pipe, flat, [version for some in different for version in some], plan.told, batch_size))
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


def _rounds(
    pipe: Pipeline,
    drafts: Sequence[Draft],
    plan: Plan,
    asked: Asked,
    batch_size: int,
    callback: Callable[[int], object] | None,
) -> list[Draft]:
    """The drafts at the end of their work."""
    current = list(drafts)
    at_work = list(range(len(current)))
    for number in range(1, asked.rounds + 1):
        tries = [
            [
                Try(current[i], number * asked.candidates + j, asked.k, _start(pipe, current[i], plan, asked))
                for j in range(asked.candidates)
            ]
            for i in at_work
        ]
        best = _tried(pipe, tries, plan, plan, batch_size)
        for i, after in zip(at_work, best, strict=True):
            current[i] = _next(current[i], after, number)
        going = [i for i in at_work if current[i].idle < asked.patience and number < asked.rounds]
        if callback is not None and len(going) < len(at_work):
            callback(len(at_work) - len(going))
        at_work = going
    return current


def _next(before: Draft, after: Draft | None, number: int) -> Draft:
    """What a round leaves."""
    if after is None or after.score >= before.score - GAIN or after.repeats > before.repeats:
        return replace(before, rounds=number, idle=before.idle + 1)
    return replace(after, rounds=number, idle=0)


def _start(pipe: Pipeline, draft: Draft, plan: Plan, asked: Asked) -> Tensor:
    """x_t at level k/n."""
    if plan.process_name != "mask":
        return draft.ids
    where = weakest(draft.nats, draft.given.free, asked.k, skip=draft.idle * asked.k)
    return _masked(draft, where, pipe.model.mask_id)


# -- variations -----------------------------------------------------------------------------------------------------------


def _variations(
    pipe: Pipeline, drafts: Sequence[Draft], plan: Plan, asked: Asked, n: int, batch_size: int
) -> list[list[Draft]]:
    """n versions of each draft, unlike the poem and one another where some draw is."""
    share = LEVEL if asked.level is None else asked.level
    drawn: dict[tuple[int, int], Tensor] = {}
    seen = [{tuple(draft.first.tolist()), tuple(draft.ids.tolist())} for draft in drafts]
    open_ = [(i, v) for i in range(len(drafts)) for v in range(n)]
    for attempt in range(TRIES):
        tries = []
        for i, v in open_:
            count = max(1, round(share * int(drafts[i].given.free.sum())))
            tries.append(Try(drafts[i], asked.candidates + attempt * n + v, count, None))
        again = []
        for (i, v), version in zip(open_, _drawn(pipe, tries, plan, batch_size), strict=True):
            drawn[i, v] = version
            key = tuple(version.tolist())
            if key in seen[i]:
                again.append((i, v))
            seen[i].add(key)
        open_ = again
    flat = [draft for draft in drafts for _ in range(n)]
    versions = [drawn[i, v] for i in range(len(drafts)) for v in range(n)]
    scores = _nats(pipe, flat, versions, plan.told, batch_size)
    after = [replace(d, ids=x, nats=nats, rounds=1) for d, x, nats in zip(flat, versions, scores, strict=True)]
    return [after[i * n : (i + 1) * n] for i in range(len(drafts))]


# -- strict prosody -------------------------------------------------------------------------------------------------------


def _mended(pipe: Pipeline, drafts: Sequence[Draft], plan: Plan, asked: Asked, batch_size: int) -> list[Draft]:
    """The drafts within the law, whatever breaks it masked and filled."""
    found = []
    for draft in drafts:
        law = pipe._law(draft.given, plan.prosody)
        found.append(misfits(law, draft.ids, draft.shown & ~draft.given.free, draft.nats))
    broken = [i for i, where in enumerate(found) if where.any()]
    if not broken:
        return list(drafts)
    by_mask = replace(
        plan, process_name="mask", process=pipe.model.process("mask"), sampler="improved", options={}, keyword=None
    )
    tries = [
        [
            Try(drafts[i], j, int(found[i].sum()), _masked(drafts[i], found[i], pipe.model.mask_id))
            for j in range(asked.candidates)
        ]
        for i in broken
    ]
    best = _tried(pipe, tries, by_mask, plan, batch_size)
    result = list(drafts)
    for i, after in zip(broken, best, strict=True):
        assert after is not None, "a filling under the law is another text than one that breaks it"
        result[i] = replace(after, mended=found[i])
    return result


def misfits(law: Law, ids: Tensor, frozen: Tensor, nats: Tensor) -> Tensor:
    """The fewest positions, (L,) bool and none of them `frozen`, without which ids (L,) belong to a text of the law.

    Of equally few the ones with the most nats (L,).  Positions that show `law.unread` are open as they are.  Under
    `no_repeat` they need not be the fewest: of doubled tokens all but one are added to what breaks tones and rhyme least.
    """
    standing = (ids != law.unread).nonzero()[:, 0].tolist()
    known = law.known(ids)
    options = []
    for sequence in range(law.sequences):
        for held in _groups(law, ids):
            broken = _broken(law, known, sequence, held, frozen, nats)
            broken |= _doubled(law, ids, sequence, held is not None, broken, frozen, nats)
            if not any(frozen[at] for at in broken):
                options.append((len(broken), -sum(nats[at].item() for at in broken), sorted(broken)))
    options.append((len(standing) + 1, 0.0, [at for at in standing if not frozen[at]]))
    for _, _, at in sorted(options):
        rest = [k for k in standing if k not in at]
        if not rest or possible(law, ids, rest):
            break
    return torch.zeros_like(frozen).index_fill(0, torch.tensor(at, dtype=torch.long), True)


def _groups(law: Law, ids: Tensor) -> list[list[bool] | None]:
    """For each single rhyme group, whether it has the token of each position; [None] without rhyme."""
    if law.rhymes is None:
        return [None]
    rhymes = law.rhymes
    member = torch.cat([rhymes.member, torch.zeros_like(rhymes.member[:1])])[rhymes.place[ids]]  # (L, K)
    return [member[:, k].tolist() for k in (rhymes.size == 1).nonzero()[:, 0].tolist()]


def _broken(law: Law, known: Tensor, sequence: int, held: list[bool] | None, frozen: Tensor, nats: Tensor) -> set[int]:
    """Positions whose letters (L,) break a sequence, each line by the pattern it breaks least, or the rhyme group."""
    letters = known.tolist()
    ends = {*law.ends} if held is not None else set()
    result: set[int] = set()
    for line in range(law.lines):
        bits = int(law.patterns[sequence, line])
        options = []
        for pattern in (k for k in range(len(law.marks)) if bits >> k & 1):
            asks = law.marks[pattern].tolist()
            places = [
                at
                for at, mark in zip(range(line * law.width, (line + 1) * law.width), asks, strict=True)
                if at not in ends and (letters[at], mark) in ((P, OBLIQUE), (Z, LEVEL_TONE))
            ]
            fixed = sum(bool(frozen[at]) for at in places)
            options.append((fixed, len(places), -sum(nats[at].item() for at in places), places))
        result.update(min(options)[3])
    if held is not None:
        result.update(at for at in law.words if letters[at] != W and not held[at])
        if law.first is not None:
            rhyming = law.rhyming_first >> sequence & 1
            end = letters[law.first]
            if (rhyming and end != W and not held[law.first]) or (not rhyming and end == P):
                result.add(law.first)
    return result


def _doubled(
    law: Law, ids: Tensor, sequence: int, rhyme: bool, broken: set[int], frozen: Tensor, nats: Tensor
) -> set[int]:
    """Positions that repeat a token where none may stand twice, but for one of each (frozen, or the one with least nats)."""
    among: Sequence[int] = ()
    if law.no_repeat:
        among = (ids != law.unread).nonzero()[:, 0].tolist()
    elif rhyme and law.distinct:
        among = law.ends if law.rhyming_first >> sequence & 1 else law.words
    result: set[int] = set()
    for alike in _alike([int(ids[at]) if at not in broken and ids[at] != law.unread else -1 - at for at in among]):
        places = sorted((among[k] for k in alike), key=lambda at: (not frozen[at], nats[at].item()))
        result.update(places[1:])
    return result


# -- results --------------------------------------------------------------------------------------------------------------


def _results(
    pipe: Pipeline,
    wholes: Sequence[Canvas],
    ends: Sequence[Sequence[Draft]],
    first: Sequence[float],
    plan: Plan,
    asked: Asked,
    script: str | None,
    batch_size: int,
) -> list[Refined]:
    told: dict[str, Sequence[Any]] = {name: [value] * len(wholes) for name, value in plan.told.items()}
    flat = [(i, v, draft) for i, drafts in enumerate(ends) for v, draft in enumerate(drafts)]
    before = _bounds(pipe, wholes, told, batch_size)
    told = {name: [value] * len(flat) for name, value in plan.told.items()}
    after = _bounds(pipe, [replace(wholes[i], ids=draft.ids) for i, _, draft in flat], told, batch_size)
    results = []
    for (i, v, draft), bound in zip(flat, after, strict=True):
        text = _written(pipe, draft, script)
        now = draft.form.split(text)
        new = (draft.ids != draft.first)[draft.shown].tolist()
        places = [divmod(k, draft.form.width) for k, changed in enumerate(new) if changed]
        mended = [divmod(k, draft.form.width) for k, broke in enumerate(draft.mended[draft.shown].tolist()) if broke]
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
                variation=None if asked.variations is None else v + 1,
                seed=draft.seed,
                process=plan.process_name,
                sampler=plan.sampler,
                model=pipe.model.name,
            )
        )
    return results


def _bounds(
    pipe: Pipeline, wholes: Sequence[Canvas], told: Mapping[str, Sequence[str | None]], batch_size: int
) -> list[float]:
    """The mask process's bound, nats a character; every text meets the same corruptions."""
    seeds = [[example_seed(0, 0)]] * len(wholes)
    nats = pipe._bounds(wholes, seeds, "mask", MERIT_LEVELS, batch_size, None, told)[:, 0]
    return [total / one.shape[1] for total, one in zip(nats.tolist(), wholes, strict=True)]


def _written(pipe: Pipeline, draft: Draft, script: str | None) -> str:
    """The poem as it stands; what has not changed as it was written."""
    new = iter((draft.ids != draft.first)[draft.shown].tolist())
    holed = ["".join(canvas.HOLE if next(new) else c for c in line) for line in draft.lines]
    if holed == list(draft.lines):
        return draft.form.layout(draft.lines)
    one = canvas.holed("\n".join(holed), pipe.model, draft.form, verse=pipe.verse)
    return canvas.in_script(one, script).text(draft.ids)
