"""Particles, candidates and qualities; what is said of texts that are there; the same by the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_control import POEMS, SMALL, STRICT, kept, of_all_characters, texts
from tiny import QUATRAIN
from torch import Tensor

from textdiff import cli
from textdiff.core.contracts import Query, State
from textdiff.core.predictions import Categorical
from textdiff.core.rng import Rng
from textdiff.networks.files import PACKAGED
from textdiff.networks.folder import SLOTS
from textdiff.pipeline import canvas
from textdiff.pipeline import run as running
from textdiff.pipeline.options import QUALITIES, Options
from textdiff.pipeline.outputs import chosen, merit
from textdiff.pipeline.score.likelihood import MERIT_LEVELS
from textdiff.pipeline.text import Pipeline
from textdiff.verse.forms import get_form, regulated

# -- particles, candidates, quality ---------------------------------------------------------------------------------------


def test_one_particle_is_the_plain_chain_with_its_weight() -> None:
    plain, weighed = (
        of_all_characters().generate(n=3, **STRICT),
        of_all_characters().generate(n=3, particles=1, **STRICT),
    )
    assert texts(weighed) == texts(plain)
    assert all(poem.log_weight is None for poem in plain)
    assert all(math.isfinite(poem.log_weight) and poem.log_weight for poem in weighed)
    assert [poem.forwards for poem in weighed] == [4] * 3
    several = of_all_characters().generate(n=3, particles=3, **STRICT)
    assert all(math.isfinite(poem.log_weight) and kept(poem) for poem in several)
    assert [poem.forwards for poem in several] == [12] * 3


def merits(pipe: Pipeline, found: Sequence[str], form: str, title: str | None = None) -> Tensor:
    """Broken verse, then nats a character, by the public calls."""
    scores = pipe.score(found, process="mask", levels=MERIT_LEVELS, repeats=1, title=title)
    details = pipe.detail(found, title=title)
    broken = [not regulated(get_form(form).split(text)) for text in found]
    nats = [sum(d.nats) / len(d.nats) + s.nats_per_char for s, d in zip(scores, details, strict=True)]
    return torch.tensor([100 * b + n for b, n in zip(broken, nats, strict=True)], dtype=torch.float64)


def test_merit_is_broken_verse_then_nats_under_what_is_told() -> None:
    pipe = of_all_characters()
    texts = [pipe.generate(**STRICT)[0].text, QUATRAIN]
    whole = canvas.about_all(canvas.read_all(canvas.whole, texts, pipe.model), pipe.model, "静夜思", None)
    rank = merit(pipe.model, whole, torch.stack([one.ids for one in whole]), "mask")
    torch.testing.assert_close(rank, merits(pipe, texts, "wuyan-jueju", "静夜思"), rtol=0, atol=1e-4)
    assert rank[0] < 50 < 100 < rank[1]


def candidates(pipe: Pipeline, n: int, seed: int, **settings: Any) -> tuple[list[str], Tensor]:
    """Candidates 0 … n − 1 of a seed, drawn one by one, and their merits."""
    plan = pipe.plan(**{name: value for name, value in settings.items() if name != "form"})
    page = canvas.open_page(pipe.model, Options(form=settings["form"]))
    page = canvas.about(page, pipe.model, settings.get("title"), None)
    found = []
    for j in range(n):
        (batch,) = running.run(pipe.model, plan, [page], [seed], streams=[j])
        *_, state = batch.states
        found.append(page.text(state.x[0]))
    return found, merits(pipe, found, settings["form"], settings.get("title"))


@pytest.mark.parametrize(
    "more", [{}, {"process": "replacement", "prosody": "strict"}, {"title": "明月", "temperature": 1.3}]
)
def test_the_best_candidate_has_the_least_merit(more: dict[str, Any]) -> None:
    pipe, settings = of_all_characters() if "prosody" in more else POEMS, SMALL | more
    found, rank = candidates(pipe, 3, 2, **settings)
    assert len(set(found)) == 3 and found[0] == pipe.generate(seed=2, **settings)[0].text
    (best,) = pipe.generate(seed=2, best_of=3, **settings)
    assert best.text == found[int(rank.argmin())] and best.forwards == 12
    assert pipe.generate(seed=2, best_of=1, **settings) == pipe.generate(seed=2, **settings)


def test_candidates_are_ranked_under_the_canvas_of_their_own_text() -> None:
    """Two texts with titles of their own, two candidates each, and two particles each, of which the first one counts."""
    page = canvas.open_page(POEMS.model, Options(form="wuyan-jueju"))
    drawn, titles = texts(POEMS.generate(n=16, **SMALL)), ("明月", "春风")
    here, there = (merits(POEMS, drawn, "wuyan-jueju", title) for title in titles)
    i, j = next((i, j) for i in range(16) for j in range(16) if here[i] < here[j] and there[j] < there[i])
    x = torch.stack([canvas.whole(drawn[k], POEMS.model).ids for k in (i, i, j, j, i, i, j, j)])
    weight = torch.tensor([0.0, -torch.inf] * 4, dtype=torch.float64)
    state = State(x, torch.zeros(x.shape), x, x == x, None, x, torch.zeros(8, dtype=torch.long), weight)
    canvases = [canvas.about(page, POEMS.model, title, None) for title in titles for _ in range(4)]
    plan = POEMS.plan(best_of=2, particles=2, prosody="strict")
    rows, weights = chosen(POEMS.model, state, canvases, [0, 1], plan)
    assert rows.tolist() == [0, 6]
    assert weights.tolist() == pytest.approx([math.log(1 / 2)] * 2), "the mean over the particles"


def test_no_two_chains_of_a_run_have_the_same_stream_of_numbers() -> None:
    """Two texts of one seed, two candidates each, and two particles each."""
    page, keys = canvas.open_page(POEMS.model, Options(form="wuyan-jueju")), []
    plan = POEMS.plan(best_of=2, particles=2, prosody="strict")
    made = running.Writing(POEMS.model, plan)

    def scenery(canvases: Sequence[canvas.Canvas], rng: Rng) -> running.Scene:
        keys.extend(zip(rng.keys.tolist(), rng.streams.tolist(), strict=True))
        return made(canvases, rng)

    for _ in running.run(POEMS.model, plan, [page, page], [5, 5], scenery=scenery, streams=[0, 1]):
        pass
    assert len(keys) == len(set(keys)) == 8


def test_candidates_and_particles_together_give_a_weighed_poem() -> None:
    (poem,) = of_all_characters().generate(best_of=2, particles=2, **STRICT)
    assert kept(poem) and math.isfinite(poem.log_weight) and poem.forwards == 16


def test_a_quality_stands_for_steps_and_candidates() -> None:
    assert set(QUALITIES) == {"draft", "good", "best"}
    for quality, told in QUALITIES.items():
        plan = POEMS.plan(quality=quality)
        assert (plan.steps, plan.best_of) == (told.get("steps"), told.get("best_of", 1))
        (poem,) = POEMS.generate(form="wuyan-jueju", quality=quality)
        assert [poem] == POEMS.generate(form="wuyan-jueju", **told)
    assert POEMS.plan(quality="draft", steps=3).steps == 3
    assert POEMS.plan(quality="best", best_of=2).best_of == 2
    assert POEMS.plan().steps is None and POEMS.plan().best_of == 1


# -- detail, retrieval, evaluation ----------------------------------------------------------------------------------------


def test_detail_is_the_probability_of_each_character_given_the_others() -> None:
    model = POEMS.model
    (detail,) = POEMS.detail(QUATRAIN, title="明月", batch_size=7)
    ids = model.encode(["".join(detail.characters)])
    assert "".join(detail.characters) == "床前明月光疑是地上霜举头望明月低头思故乡" and detail.form == "wuyan-jueju"
    told = model.condition(1, form="wuyan-jueju", title="明月")
    for place in (0, 7, 19):
        hole = torch.arange(20)[None] == place
        with torch.inference_mode():
            x = ids.masked_fill(hole, model.mask_id)
            q = model.predictor("mask")(
                Query(x, hole / 20, at=(torch.tensor([0]), torch.tensor([place])), condition=told)
            )
        log_q = q.logits()[0].double().log_softmax(-1)
        assert detail.nats[place] == pytest.approx(-log_q[ids[0, place]].item(), abs=1e-4)
        assert detail.best_nats[place] == pytest.approx(-log_q.max().item(), abs=1e-4)
        assert model.tokenizer.convert_tokens_to_ids(detail.best[place]) == log_q.argmax().item()
    assert all(least <= nats for least, nats in zip(detail.best_nats, detail.nats, strict=True))
    assert detail.nats != POEMS.detail(QUATRAIN)[0].nats


def test_detail_takes_unknown_characters_and_several_texts() -> None:
    strange = QUATRAIN.replace("床", "𠮷").replace("乡", "a")
    one, other = POEMS.detail([strange, QUATRAIN], title=["明月", None])
    assert one.text == strange and len(one.nats) == 20 and all(map(math.isfinite, one.nats))
    assert other == POEMS.detail(QUATRAIN)[0]
    with pytest.raises(ValueError, match="title has 2 values for 1 texts"):
        POEMS.detail(QUATRAIN, title=["明月", "春"])
    masked = dataclasses.replace(POEMS.model, processes=("replacement",))
    with pytest.raises(ValueError, match="does not serve the mask process"):
        Pipeline(masked).detail(QUATRAIN)


class Echo:
    """A poem model that believes in the characters of the title."""

    def __init__(self, hears: bool) -> None:
        self.parts, self.hears = POEMS.model, hears

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parts, name)

    def predictor(self, process: str) -> Any:
        def predict(query: Query) -> Categorical:
            x_t, at, condition = query.x_t, query.at, query.condition
            logits = torch.zeros(len(condition), len(self.tokenizer))
            start = self.prefix.index("title")
            logits = logits.scatter(1, condition[:, start:], 3.0 * self.hears)
            return Categorical(lambda index: logits[at[0][index]], at, x_t)

        return predict


def test_a_poem_finds_its_title_where_the_model_hears_it() -> None:
    titles = ["明月", "春风", "山河", "白日", "落花"]
    records = [{"text": (title * 10), "form": "wuyan-jueju", "title": title} for title in titles]
    records.append({"text": QUATRAIN, "title": "  "})
    found = Pipeline(Echo(True)).retrieve(records, titles=3)  # type: ignore[arg-type]
    assert found == {"top1": 1.0, "standard_error": 0.0, "chance": 1 / 3, "texts": 5}
    deaf = Pipeline(Echo(False)).retrieve(records, titles=3)  # type: ignore[arg-type]
    assert deaf["top1"] == 0, "a tie is no success"
    ranked = "明月" * 4 + "春风" * 3 + "山河" * 2 + "白日"
    of_one = [{"text": ranked, "form": "wuyan-jueju", "title": title} for title in titles]
    found = Pipeline(Echo(True)).retrieve(of_one, titles=5)  # type: ignore[arg-type]
    assert found["top1"] == pytest.approx(1 / 5), "it must be better than every other title"
    assert POEMS.retrieve(records, titles=5) == POEMS.retrieve(records, titles=5, batch_size=4)


def test_retrieval_says_what_it_lacks() -> None:
    records = [{"text": QUATRAIN, "title": title} for title in ("明月", "春风")]
    plain = Pipeline(dataclasses.replace(POEMS.model, told=SLOTS[:3]))
    for pipe, told, titles, says in (
        (plain, records, 2, "cannot be told a title"),
        (POEMS, records, 3, "2 different titles of one form are too few to choose among 3"),
        (POEMS, records, 1, "titles is 1; it must be at least 2"),
        (POEMS, [{"text": QUATRAIN}], 2, "no poem with a title"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.retrieve(told, titles=titles)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is told titles and dynasties, in a folder."""
    target = tmp_path_factory.mktemp("models") / "told"
    of_all_characters().model.save_pretrained(target)
    return target


def test_evaluation_tells_what_is_asked_for(folder: Path) -> None:
    pipe = Pipeline.from_pretrained(folder)
    records = [{"text": QUATRAIN, "title": "静夜思", "dynasty": "tang"}, {"text": QUATRAIN, "title": None}]

    def nats(records: Any, *conditions: str) -> float:
        return pipe.evaluate(records, levels=3, conditions=conditions)["all"]["nats_per_char"]

    assert len({nats(records[:1], *c) for c in ((), ("title",), ("dynasty",), ("title", "dynasty"))}) == 4
    assert nats(records[1:], "title") == nats(records[1:])
    (score,) = pipe.score(QUATRAIN, title="静夜思", dynasty="tang", levels=3, repeats=1)
    assert nats(records[:1], "title", "dynasty") == pytest.approx(score.nats_per_char, rel=1e-6)
    with pytest.raises(ValueError, match="unknown condition 'author'"):
        nats(records, "author")
    untold = Pipeline(dataclasses.replace(pipe.model, told=SLOTS[:3]))
    with pytest.raises(ValueError, match="cannot be told a title"):
        untold.evaluate(records, conditions=["title"])
    pytest.importorskip("opencc")
    old, new = (pipe.score(QUATRAIN, title=t, levels=2)[0].nats_per_char for t in ("靜夜思鄉", "静夜思乡"))
    assert old == new, "titles are read in the model's characters"


# -- command line ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command, with a model in the place of the packaged ones: (exit code, stdout, stderr)."""
    whole = Pipeline.from_pretrained

    def opened(model: Any = None, **how: Any) -> Pipeline:
        return of_all_characters() if model in (None, *PACKAGED) else whole(model, **how)

    monkeypatch.setattr(Pipeline, "from_pretrained", opened)

    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


SHORT = ("--form", "wuyan-jueju", "--steps", 4)


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--prosody", "strict", "--particles", 2], {"prosody": "strict", "particles": 2}),
        (
            ["--tones", "仄起", "--rhyme", "七阳", "--avoid", "孤平"],
            {"tones": "仄起", "rhyme": "七阳", "avoid": "孤平"},
        ),
        (
            ["--keyword", "明月", "--no-repeat", "--quality", "draft"],
            {"keyword": "明月", "no_repeat": True, "steps": 4},
        ),
        (["--title", "明月", "--guidance", 1.5], {"title": "明月", "guidance": 1.5}),
    ],
)
def test_the_flags_of_generate_are_those_of_the_library(
    run: Any, flags: list[object], settings: dict[str, Any]
) -> None:
    code, out, err = run("generate", *SHORT, "-n", 2, "--seed", 1, *flags, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    expected = [dataclasses.asdict(poem) for poem in of_all_characters().generate(n=2, seed=1, **SMALL | settings)]
    assert (code, err) == (0, "") and found == json.loads(json.dumps(expected))
    assert all(("particles" in settings) == isinstance(poem["log_weight"], float) for poem in found)


def test_holes_are_filled_strictly_from_the_command_line(run: Any) -> None:
    code, out, err = run(
        "fill", "白日依山_，____流。", "--form", "couplet:5", "--prosody", "strict", "--quality", "draft"
    )
    assert (code, err) == (0, "")
    upper, lower = out.strip().rstrip("。").split("，")
    poem = SimpleNamespace(lines=(upper, lower))
    assert kept(poem, among=slice(2, 4)) and lower.endswith("流")  # type: ignore[arg-type]


def test_a_file_is_evaluated_told_and_by_title(run: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    poems = of_all_characters().generate(n=3, **SMALL)
    rows = [
        {"text": p.text, "title": t, "dynasty": "song"} for p, t in zip(poems, ("明月", "春风", "山中"), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pipe = Pipeline(of_all_characters().model)
    flags = ("evaluate", path, "--levels", 2, "--json")
    for told, limit in (((), 3), (("title", "dynasty"), 2)):
        code, out, _ = run(*flags, "--model", folder, *(["--told", ",".join(told)] if told else []), "--limit", limit)
        expected = pipe.evaluate(rows[:limit], levels=2, conditions=told)["all"]
        assert code == 0 and json.loads(out)["all"] == pytest.approx(expected)
        assert json.loads(out)["all"]["texts"] == limit
    code, out, _ = run(*flags, "--model", folder, "--titles", 3)
    assert code == 0 and json.loads(out) == pipe.retrieve(rows, titles=3, levels=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--acrostic-end", "_月__", "--prosody", "strict", *SHORT], "line 2, character 5"),
        (["generate", "--prosody", "stric"], "prosody is 'stric'"),
        (["generate", "--rhyme", "九阳"], "did you mean '七阳'"),
        (["generate", "--tones", "平平"], "tones is '平平'"),
        (["generate", "--keyword", "ab"], "keyword 'ab'"),
        (["generate", "--best-of", "0"], "best_of is 0"),
        (["generate", "--quality", "high"], "unknown quality 'high'"),
        (["generate", "--guidance", "2"], "no title or dynasty"),
        (["fill", "白日依山_", "--particles", "2"], "particles is 2"),
        (["evaluate", "FILE", "--told", "author"], "unknown condition 'author'"),
        (["evaluate", "FILE", "--titles", "0"], "titles is 0"),
        (["evaluate", "FILE", "--limit", "0"], "--limit is 0"),
        (["evaluate", "FILE", "--limit", "-1"], "--limit is -1"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run: Any, words: list[Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text(QUATRAIN.replace("\n", ""), encoding="utf-8")
    code, out, err = run(*[path if word == "FILE" else word for word in words])
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err


def test_refreshed_replacement_is_refused_under_strict_prosody() -> None:
    from textdiff.pipeline.text import Pipeline

    with pytest.raises(ValueError, match="'refresh' mixes new noise with old"):
        Pipeline.from_pretrained().plan(sampler="refresh", process="replacement", prosody="strict")
