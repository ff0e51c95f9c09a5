"""Jobs whose callers leave while others of their batch are at work: the network reads fewer rows, and the others' results stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import CHARACTERS, QUATRAIN, poem_model

from textdiff.pipeline.jobs.verbs import VERBS, Callers, done, prepared
from textdiff.pipeline.text import TextPipeline

POEMS = [QUATRAIN, "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"]
GAPS = [text.replace(text[3:5], "□□") for text in POEMS]
SLOTS = [text.replace(text[1], "{a}").replace(text[4], "{b}") for text in POEMS]


@pytest.mark.parametrize(
    ("verb", "texts", "options"),
    [
        ("refine", POEMS, {"rounds": 2, "best_of": 2}),
        ("refine", POEMS, {"variations": 2, "level": 0.5}),
        ("refine", POEMS, {"rounds": 1, "match": "[^月黄]*\\n.*\\n.*\\n.*", "k": 6}),
        ("augment", POEMS, {"n": 2, "strength": 0.5}),
        ("augment", POEMS, {"n": 2, "strength": 0.5, "process": "replacement", "levels": 0}),
        ("score", POEMS, {}),
        ("score", POEMS, {"detail": True, "levels": 1, "repeats": 1}),
        ("choose", SLOTS, {"slots": {"a": list(CHARACTERS[:8]), "b": list(CHARACTERS[8:18])}, "order": "left"}),
        ("restore", GAPS, {"width": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) if isinstance(value, dict) else "",
)
def test_one_who_leaves_costs_no_more_and_changes_no_result_of_the_others(verb, texts, options):
    asked, rows = list[int](), list[int]()
    model = poem_model(form="wuyan-jueju")
    model.model.base_model.encoder.register_forward_hook(lambda network, given, result: rows.append(len(result[0])))
    pipe = TextPipeline(replace(model, look=lambda: asked.append(0)))
    both = [prepared(VERBS[verb], {"id": k, "text": text, "seed": 3} | options, {}) for k, text in enumerate(texts)]
    shared, jobs = both[0][0], [job for _, job in both]

    def worked(**callers: Any) -> tuple[dict[int, Any], int, int]:
        asked.clear()
        rows.clear()
        results = dict(done(pipe, VERBS[verb], jobs, shared, Callers(**callers)))
        return results, sum(rows), len(asked)

    whole, all_rows, looks = worked()
    found, fewer, _ = worked(left=lambda k: k == 1 and len(asked) >= max(1, looks // 4))
    assert found[0] == whole[0]
    assert 0 < fewer < 0.9 * all_rows
