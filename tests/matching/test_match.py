"""`match` in generate, fill and refine: the whole text matches, always, whatever the tokenizer, the sampler and the process."""

from __future__ import annotations

import re

import pytest
import tiny

from textdiff.cli import main
from textdiff.core.errors import AskedError
from textdiff.pipeline.text import TextPipeline
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS

HOLED = "(ab|.b[cd])(gh|h.|[^ab]c)a[^.]|.*e.*[a-d]"
LINES = "春.*\n.*花.{2}\n(.*月.*){2}\n[^山]*"
KEEPING = [name for name, line in PROCESSES.items() if line.prosody and line.data == "tokens"]
PAIRS = [(p, s) for p in KEEPING for s, line in SAMPLERS.items() if line.serves(p)]


@pytest.fixture(scope="module")
def poems():
    return TextPipeline.of(tiny.poem_model())


@pytest.fixture(scope="module")
def windows():
    return TextPipeline.of(tiny.window_model())


def matches(expression: str, output) -> bool:
    return bool(re.fullmatch(expression, "\n".join(output.lines)))


@pytest.mark.parametrize(("process", "sampler"), PAIRS)
def test_every_sampler_of_every_process_that_can_keep_it_matches(windows, process, sampler):
    for steps in (None, 2) if sampler == PROCESSES[process].first else (None,):
        more = {"steps": steps, "process": process, "sampler": sampler}
        found = windows.fill(["_b__a_"] * 4, match=HOLED, **more)
        assert all(re.fullmatch(HOLED, one.text) and re.fullmatch(".b..a.", one.text) for one in found)


def test_a_network_that_writes_in_order_looks_ahead():
    """The end of a line says which character may begin it."""
    pipe, expression = TextPipeline.of(tiny.ordered_model()), "(春[^花月]{3}花|秋?[^花]{3,4}月)\n.*\n.*\n.*"
    for steps in ("each", 3):
        assert all(matches(expression, one) for one in pipe.generate("wujue", n=3, match=expression, steps=steps))
    (one,) = pipe.fill("_春_花_，__月__。\n_____，_____。", match="(?s)头.*依.*楼")
    assert re.fullmatch("头春.花.\n..月..\n.*依.*\n.*楼|(?s:头春.花.\n..月..\n.*依.*楼)", "\n".join(one.lines))


@pytest.mark.parametrize(
    ("make", "texts", "expression"),
    [
        (
            tiny.sentence_model,
            ["The _ sat on_ _ .", "the _ _  _ tree."],
            "[Tt]he (cat|dog|two)s?.*(mat|tree|a)(ed)? ?\\.",
        ),
        (tiny.byte_model, ["a_b_ c_", "_ é_ _"], "[a-c]? ?[a-y ]+é?[^a-m]?.*[f-z]"),
        (tiny.byte_model, ["a_"], "a [tcs]"),
        (tiny.window_model, ["a_c_ _.", "_\n__b"], "[a-h](.|\n)*[.b]"),
    ],
)
def test_running_text_matches_as_it_is_printed(make, texts, expression):
    for process in ("mask", "replacement"):
        pipe = TextPipeline.of(make())
        if process in pipe.model.processes:
            found = pipe.fill(texts, seed=5, process=process, match=expression)
            assert all(re.fullmatch(expression, one.text) for one in found), [one.text for one in found]


@pytest.mark.parametrize(
    ("make", "options", "expression"),
    [
        (tiny.sentence_model, {"length": 5}, "(the|a) (cat|dog)(s|ed)? .*"),
        (tiny.byte_model, {"length": 6}, "[a-c ]+x.*[^ ]"),
        (tiny.window_model, {"length": 7}, "(ab|c.)+ ?d"),
        (tiny.window_model, {"form": "lines:2x4"}, "a.*\n.*[bc]d"),
        (tiny.byte_model, {"form": "lines:2x3"}, "[a-t].*\n[cs].*[a-c]"),
        (tiny.sentence_model, {"form": "lines:2x3", "acrostic": "a_"}, "a(cat|dog|two) ?.*\n.*[a-z]"),
    ],
)
def test_open_text_matches_as_it_is_printed(make, options, expression):
    found = TextPipeline.of(make()).generate(n=3, seed=2, match=expression, **options)
    assert all(re.fullmatch(expression, one.text) for one in found), [one.text for one in found]


def test_given_text_stands_and_the_others_match_beside_it(poems):
    (one,) = poems.fill("床__月_，疑是地上_。", match=r".*\n疑是地上[霜乡]")
    assert one.text.startswith("床") and re.fullmatch("床..月.，疑是地上[霜乡]。", one.text)
    (couplet,) = poems.generate("couplet:5", match=r"春(.*)花\n.*鸟.", seed=1)
    assert re.fullmatch("春...花\n...鸟.", "\n".join(couplet.lines))


def test_at_temperature_0_what_matches_is_the_same_for_all_seeds(poems):
    found = poems.fill(
        ["床前明_光，疑_地上霜。\n举头_明月，低头思故乡。"] * 2,
        temperature=0,
        steps=1,
        match="(?s).*(月光|日).*[是里].*望.*",
    )
    assert found[0].text == found[1].text and re.search("(?s)(月光|日).*望", found[0].text)


def test_particles_weigh_matching_chains_and_a_text_does_not_depend_on_those_beside_it(poems, windows):
    many = poems.generate("wujue", n=3, seed=7, match=LINES, particles=2, steps=3)
    alone = poems.generate("wujue", n=1, seed=9, match=LINES, particles=2, steps=3)
    assert many[2].text == alone[0].text and many[2].log_weight == pytest.approx(alone[0].log_weight, rel=1e-4)
    texts = ["a_c_ _.", "_bh__e"]
    expression = ".*[ae]..*"
    assert (
        windows.fill(texts, seed=3, match=expression)[1].text
        == windows.fill(texts[1], seed=4, match=expression)[0].text
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"match": "春{3}"}, "fits no text like this"),
        ({"match": "a.*"}, "fits no text like this"),
        ({"match": "(春"}, "at character 1"),
        ({"match": ["春"]}, "it must be a word"),
        ({"match": LINES, "no_repeat": True}, "no_repeat are not kept together"),
        ({"match": LINES, "keyword": "鑫"}, "keyword '鑫' is empty or outside"),
        ({"match": "(?s)[^明]*", "keyword": "明月"}, "and keyword '明月' fits no text"),
        ({"match": LINES, "process": "uniform"}, "mask, ascending, replacement"),
        ({"match": LINES, "acrostic": "花___"}, r"'花' \(character 1\) does not fit"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_drawn(poems, options, why):
    with pytest.raises(AskedError, match=why):
        poems.generate("wujue", **options)


def test_a_revision_mends_what_does_not_match_and_matches_from_then_on(poems):
    expression = r"床.*月.*\n[^霜]*\n.*\n.*"
    (one,) = poems.refine(tiny.QUATRAIN, match=expression, rounds=1, freeze=["2:1"])
    lines = re.split("[，。\n]+", one.after.strip("。"))
    assert re.fullmatch(expression, "\n".join(lines)) and lines[1][0] == "疑"
    assert one.mended == ((2, 5),)
    with pytest.raises(AskedError, match=r"'霜' .* does not fit"):
        poems.refine(tiny.QUATRAIN, match=expression, freeze=["2:5"])
    with pytest.raises(AskedError, match="mask, ascending here"):
        poems.refine(tiny.QUATRAIN, match=expression, process="replacement")


def test_a_job_may_say_what_it_is_to_match(poems):
    from textdiff.pipeline.jobs.verbs import VERBS, results

    jobs = [{"id": k, "form": "wujue", "match": one} for k, one in enumerate([LINES, "春{3}", ".*\n.*\n.*\n.*家?"])]
    found = dict(results(poems, VERBS["generate"], jobs, {"steps": 4}))
    assert matches(LINES, found[0]) and isinstance(found[1], AskedError) and matches(".*\n.*\n.*\n.*", found[2])


def test_a_preference_and_several_candidates_go_together_with_it(poems):
    (one,) = poems.generate("wujue", match=LINES, prosody="prefer:1", best_of=2, steps=3, top_p=0.5)
    assert matches(LINES, one)


def test_the_command_line_has_it_as_a_flag(tmp_path, capsys):
    folder = tiny.saved(tiny.window_model(), tmp_path / "windows")
    assert main(["fill", "--model", folder, "--match", "a(b|c)+", "--quiet", "a__"]) == 0
    assert re.fullmatch("a(b|c)+\n", capsys.readouterr().out)
    assert main(["fill", "--model", folder, "--match", "a{4}", "--quiet", "a__"]) == 2
    assert "fits no text like this, 'a□□'" in capsys.readouterr().err
