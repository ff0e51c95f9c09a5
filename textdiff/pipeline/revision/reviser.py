"""The calls that make other texts of texts: `refine` and `augment`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from textdiff.networks.devices import on_cpu
from textdiff.pipeline.options import Forms, Options, Task, changed, formed, in_rounds, place, several, texts_in, whole
from textdiff.pipeline.outputs import Refined
from textdiff.pipeline.plan import resolve
from textdiff.pipeline.revision.augment import STRENGTH, VARIANTS, Augmentation, Variant, augment
from textdiff.pipeline.revision.keep import Kept, per_text
from textdiff.pipeline.revision.refine import CANDIDATES, refine
from textdiff.pipeline.revision.versions import TRIES
from textdiff.pipeline.run import BATCH, Left, seeds_of
from textdiff.pipeline.score.likelihood import MERIT_LEVELS, Progress
from textdiff.pipeline.score.scorer import Scorer
from textdiff.verse.prosody import Prosody


@dataclass(frozen=True, eq=False)
class Reviser(Scorer):
    """A model of text, and the other texts that it makes of texts."""

    @on_cpu
    def refine(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        rounds: int | None = None,
        k: int | None = None,
        patience: int | None = None,
        keep: Sequence[int] = (),
        freeze: Sequence[str | tuple[int, int]] = (),
        variations: int | None = None,
        level: float | None = None,
        batch_size: int = BATCH,
        callback: Progress | None = None,
        left: Left | None = None,
        **changes: Any,
    ) -> list[Refined]:
        """Each poem with its weakest characters written anew, as long as that makes it likelier; text k from seed + k.

        Each of `rounds` (3) rewrites k characters (3), and the work on a poem ends when `patience` rounds (2) in a row bring nothing
        better.  Lines of `keep` (from 1) and the characters of `freeze`, "LINE:POSITION" each, stay.  With `variations` instead
        so many other versions of each poem, a share `level` of whose free characters was drawn anew.
        `textdiff.pipeline.revision.refine` has the details; `callback` is called with the number of texts done.  `left(k)` is asked
        before each step: where it says that nobody waits for text k any more, no more is spent on it, and it is given as it stands.
        """
        options = formed(changed(options, changes), form)
        plan = resolve(options, self.model, "refine")
        texts = texts_in(texts)
        task = Task(
            **in_rounds({"rounds": rounds, "k": k, "patience": patience}, variations),
            candidates=plan.best_of if options.best_of or plan.best_of > 1 else CANDIDATES,
            keep=tuple(whole("keep", line) for line in several("keep", keep, "a list of lines, such as [1, 2]")),
            freeze=tuple(place(one) for one in several("freeze", freeze, "a list of places, such as ['3:5']")),
            variations=variations,
            level=level,
        )
        seeds = seeds_of(seed, len(texts) or 1, generator)
        return refine(self.model, texts, seeds, plan, task, batch_size, callback, left)

    @on_cpu
    def augment(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        strength: float = STRENGTH,
        n: int = VARIANTS,
        keep: Kept = None,
        tries: int = TRIES,
        levels: int = MERIT_LEVELS,
        batch_size: int = BATCH,
        callback: Progress | None = None,
        left: Left | None = None,
        **changes: Any,
    ) -> list[Variant]:
        """n variants of each text, n after n: of its free tokens a share `strength` is drawn anew; text k from seed + k.

        `keep` says what stays letter by letter: a string, a regular expression (re.compile), a pair (begin, end) of characters, or
        a list of these for all texts; or a list of such lists, one for each text.  A variant that is like its text, or like another
        one, is drawn again, `tries` times in all, and then says which one it is like.  Each has its distance, and the bound on
        −log p of it and of the original by `levels` stratified levels (0: none; a writer's figure is exact):
        `textdiff.pipeline.revision.augment`.  `callback` is called with the number of texts done, and `left` as in `refine`.
        """
        options = formed(changed(options, changes), form)
        plan = replace(resolve(options, self.model, "augment"), best_of=1, prosody=Prosody())
        task = Augmentation(strength=strength, n=n, tries=tries, levels=levels)
        texts = texts_in(texts)
        seeds, stays = seeds_of(seed, len(texts) or 1, generator), per_text(keep, len(texts))
        return augment(self.model, texts, stays, seeds, plan, task, batch_size, callback, left)
