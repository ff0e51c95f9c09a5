"""Checking a poem: tones, rhyme, the classical faults and their rescue, and the readings that a person must decide.

Notation as in `forms`: p level 平, z oblique 仄, · free; a line of seven is a line of five behind `·` and the opposite of
its second position.  Positions are counted from 1; k of five is k + 2 of seven.  Below they are those of five.

A character has the readings of `sounds.readings`, those of its simplified form if it has none, and without any it may be
whatever is wanted.  A `pronounce` decides.  A statement about a poem is *true* or *false* if it is so under every choice
of one reading per character, else *unknown*; it depends on the characters that make it so.

    tone        the position's mark in the poem's template.  The template is the one of `forms.SEQUENCES` with the fewest
                positions broken, after rescue, then before.
    拗句        a line off its template.  Rescued are
      特拗      b as ·pzpz: position 4 level, made good in the line itself by an oblique 3
      大拗      a with position 4 oblique, made good by a level 3 in the lower line (对句相救)
    小拗        a with position 3 oblique but 4 level: within the template; the report says whether the lower line has a level 3
    孤平        B as zpzzp.  It is avoided by a level 3 for the oblique 1 (zppzp, reported as 孤平自救)
    三平尾      the last three characters are level; 三仄尾: oblique
    失对        the two lines of a couplet agree at position 2 or 4 (2, 4 or 6 of seven)
    失粘        the lower line of a couplet and the upper line of the next differ there.  A rescued position counts as what
                the template wants.  Neither needs a template: they are also looked for in an even number of lines of 5 or
                7 characters.
    出韵        a line's rhyme word (the end of an even line) has no level reading in the poem's group of 平水韵.  The
                poem's group is the level group that holds most rhyme words, in a tie that of the first line, then that of the
                earliest.  Tone and rhyme are asked of one and the same reading.
    邻韵        the rhyme words are in one of the 14 classes of `sounds.NEIGHBOURS`, though in no one group
    重韵        a rhyme word stands twice
    首句        the first line ends level, in a sequence that rhymes there, but neither in the group nor in its class

A couplet, where its form is named, has the tones of the lines of an octave in which `forms.couplet` places it, and of all rescues
特拗 alone; it has no rhyme.

The strict form is *broken* by: a tone that is off and not rescued, 出韵, 重韵 of even lines.  These are the rules of
`forms.regulated`, with 大拗 in addition.  失对 and 失粘 break tones, too; 孤平, 三平尾, 三仄尾, 首句 and repeated characters
are reported, and break nothing.  A first line's end that may be read both ways breaks nothing where either reading gives a
sequence.
"""

from __future__ import annotations

from textdiff.verse.checker.describe import describe
from textdiff.verse.checker.findings import Character, Decision, Finding, Line, Repeat, Report, Rhyme, RhymeWord
from textdiff.verse.checker.judge import check

__all__ = [
    "Character",
    "Decision",
    "Finding",
    "Line",
    "Repeat",
    "Report",
    "Rhyme",
    "RhymeWord",
    "check",
    "describe",
]
