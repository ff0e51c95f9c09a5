"""A network that writes its holes one after the other: one law, by every route."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch

import textdiff
from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.levels import count_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.networks.folder import TextModel
from textdiff.networks.ordered.any_subset import any_subset
from textdiff.networks.tokenization import AGAIN, NEXT, character_tokenizer, naming
from textdiff.samplers.ancestral import improved
from textdiff.shaping.tokens import guided
from textdiff.verse.checker import check

LENGTH = 4


def small_model(family: str = "bert") -> TextModel:
    """Three letters, at most four positions, [CLS]-less; every text can be listed."""
    tokenizer = character_tokenizer("abc", (*naming(NEXT, LENGTH), *naming(AGAIN, LENGTH)))
    return TextModel.from_parts(tiny.network(len(tokenizer)), tokenizer, processes=("ascending",), name="three letters")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """(the folder, the model by transformers, the same model by textdiff's own network)."""
    folder = tiny.saved(tiny.ordered_model(tiny.RHYMES), tmp_path_factory.mktemp("ordered"))
    return folder, TextModel.from_pretrained(folder), TextModel.from_pretrained(folder, lean=True)


def texts_of(model, given, free):
    """Every text that agrees with given (L,) where not free."""
    letters = [*model.content.tolist(), model.unk_id]
    choices = [letters if open_ else [token] for token, open_ in zip(given.tolist(), free.tolist(), strict=True)]
    return torch.tensor(list(itertools.product(*choices)))


@pytest.mark.parametrize("holes", [(0, 1, 2, 3), (1, 3), (0, 2, 3), (2,)])
def test_the_law_of_the_holes_sums_to_one_and_is_that_of_the_chain(holes):
    model = small_model()
    free = torch.zeros(LENGTH, dtype=torch.bool)
    free[list(holes)] = True
    x = texts_of(model, model.content[torch.tensor([0, 1, 2, 0])], free)
    free = free.expand(len(x), -1)
    t, predictor = free.double(), any_subset(model)
    with torch.inference_mode():
        at_once = predictor(Query(torch.where(free, model.mask_id, x), t)).log_prob(x)[0]
        one_by_one = torch.zeros(len(x), dtype=torch.float64)
        shown = torch.where(free, model.mask_id, x)
        for hole in holes:
            here = torch.zeros_like(free)
            here[:, hole] = True
            one_by_one += predictor(Query(shown, t, at=positions_of(here))).log_prob(x)[0][:, hole]
            shown = torch.where(here, x, shown)
    torch.testing.assert_close(at_once.sum(-1).exp().sum(), torch.tensor(1.0).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(at_once.sum(-1), one_by_one, atol=1e-5, rtol=0)


def test_what_comes_later_says_nothing_and_what_stands_says_something():
    model = small_model()
    a, b, c = model.content.tolist()
    free = torch.tensor([[True, False, True, True]])
    x = torch.tensor([[a, b, c, a]])
    law = any_subset(model)

    def first_two(x):
        with torch.inference_mode():
            return law(Query(torch.where(free, model.mask_id, x), free.double())).log_prob(x)[0][0, [0, 2]]

    torch.testing.assert_close(first_two(x), first_two(torch.tensor([[a, b, c, b]])))
    assert (first_two(x) - first_two(torch.tensor([[a, c, c, a]]))).abs().min() > 1e-3


def test_keys_and_values_that_are_kept_change_no_number(ordered):
    _, whole, lean = ordered
    length, rows = 20, 5
    canvas = torch.full((rows, length), whole.mask_id)
    canvas[:, 3], canvas[:, 11] = whole.content[5], whole.content[9]
    free = canvas == whole.mask_id
    options = {"process": whole.process("ascending"), "condition": whole.condition(rows, form="wuyan-jueju")}
    drawn = []
    for model in (whole, lean):
        levels = count_levels(free.sum(-1))
        with torch.inference_mode():
            *_, last = sample(
                canvas,
                free,
                levels,
                improved(),
                predictor=model.predictor("ascending"),
                rng=Rng(range(rows)),
                **options,
            )
        drawn.append(last.x)
    assert torch.equal(*drawn)
    with torch.inference_mode():
        scores = [
            model.predictor("ascending")(Query(canvas, free.double(), condition=options["condition"])).log_prob(
                drawn[0]
            )[0]
            for model in (whole, lean)
        ]
        step_by_step, predictor = torch.zeros(rows, length, dtype=torch.float64), lean.predictor("ascending")
        shown = canvas
        for column in range(length):
            here = free & (torch.arange(length) == column)
            if here.any():
                query = Query(shown, free.double(), at=positions_of(here), condition=options["condition"])
                step_by_step += torch.where(here, predictor(query).log_prob(drawn[0])[0], 0.0)
                shown = torch.where(here, drawn[0], shown)
    torch.testing.assert_close(*scores, atol=2e-4, rtol=0)
    torch.testing.assert_close(scores[1], step_by_step, atol=2e-4, rtol=0)


@pytest.mark.parametrize("which", [1, 2])
def test_a_text_does_not_notice_what_those_beside_it_are_about(ordered, which):
    """The slots that it leaves empty are left out where no other text fills them, and no position moves for that."""
    model = ordered[which]
    x = model.content[torch.arange(20) % 7].expand(2, -1)
    told = torch.full((2, len(model.prefix)), model.pad_id)
    told[:, model.prefix.index("title") :] = model.content[:1]
    told[1, 0] = model.content[1]  # before the title, where the first text says nothing
    free = torch.ones_like(x, dtype=torch.bool)
    shown, t, law = torch.where(free, model.mask_id, x), free.double(), any_subset(model)
    with torch.inference_mode():
        both = law(Query(shown, t, condition=told)).log_prob(x)[0]
        alone = [law(Query(shown[k:][:1], t[k:][:1], condition=told[k:][:1])).log_prob(x[k:][:1])[0] for k in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=0)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_a_column_is_told_which_position_it_is_to_say():
    """Positions that are absent leave no other trace: after the same token the second hole is said to be the third or the fourth."""
    model = small_model()
    x = torch.full((2, LENGTH), model.mask_id)
    x[:, 0] = model.content[0]
    t = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]).double()
    with torch.inference_mode():
        law = any_subset(model)(Query(x, t, at=(torch.tensor([0, 1]), torch.tensor([2, 3]))))
        logits = law.given(x).logits()
    assert (logits[0] - logits[1])[model.content].abs().max() > 1e-3


def test_a_kept_text_is_not_taken_for_another_one(ordered):
    """Rows, what stands, the condition and what was written are compared before anything is used again."""
    _, _, model = ordered
    once, content = model.predictor("ascending"), model.content
    free = torch.ones(20, 20, dtype=torch.bool)
    blank = torch.full_like(free, model.mask_id, dtype=torch.long)
    written = blank.clone()
    written[:, 0] = content[:20] if len(content) >= 20 else content[0]
    other = written.roll(1, 0)
    second = positions_of(free & (torch.arange(20) == 1))
    told = [model.condition(20, form=form) for form in ("wuyan-jueju", "qiyan-jueju")]
    asked = [Query(x, free.double(), at=second, condition=c) for x in (written, other) for c in told]
    with torch.inference_mode():
        for query in [*asked, *asked[::-1]]:
            kept, fresh = (one(query).given(query.x_t).logits() for one in (once, model.predictor("ascending")))
            torch.testing.assert_close(kept, fresh)


def test_the_bound_is_the_likelihood_in_one_pass():
    model = small_model()
    x = texts_of(model, torch.zeros(LENGTH, dtype=torch.long), torch.ones(LENGTH, dtype=torch.bool))
    free = torch.ones_like(x, dtype=torch.bool)
    process = model.process("ascending")
    with torch.inference_mode():
        nats = nelbo(x, free, predictor=model.predictor("ascending"), process=process, seeds=torch.arange(len(x)))
    assert process.bound_steps(free.sum(-1)).tolist() == [1] * len(x)
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_whole_text_drawn_at_once_has_the_law_of_one_drawn_hole_by_hole():
    model = small_model()
    n = 4000
    free = torch.ones(n, LENGTH, dtype=torch.bool)
    blank = torch.full((n, LENGTH), model.mask_id)
    x = texts_of(model, blank[0], free[0])
    with torch.inference_mode():
        law = any_subset(model)
        exact = law(Query(torch.full_like(x, model.mask_id), free[: len(x)].double())).log_prob(x)[0].sum(-1).exp()
        at_once = law(Query(blank, free.double())).draw(rng=Rng(range(n)))
    weights = 100 ** torch.arange(LENGTH)
    code = (x * weights).sum(-1)
    share = ((at_once * weights).sum(-1) == code[:, None]).double().mean(-1)
    assert (
        0.5 * (share - exact).abs().sum() < 0.09
    )  # of 256 texts: about what 4,000 draws of the law itself are away from it


def test_guidance_goes_by_both_laws(ordered):
    _, _, model = ordered
    free = torch.ones(3, 20, dtype=torch.bool)
    x = torch.full((3, 20), model.mask_id)
    condition = model.condition(3, form="wuyan-jueju", title="山")
    predictor = guided(model.predictor("ascending"), 1.5, model.untold)
    drawn = []
    for predict in (predictor, guided(model.predictor("ascending"), 1.0, model.untold)):
        with torch.inference_mode():
            *_, last = sample(
                x,
                free,
                count_levels(free.sum(-1)),
                improved(),
                predictor=predict,
                process=model.process("ascending"),
                rng=Rng(range(3)),
                condition=condition,
            )
        drawn.append(last.x)
    assert not torch.equal(*drawn)


def test_a_hole_before_which_others_are_open_is_refused():
    model = small_model()
    x = torch.full((1, LENGTH), model.mask_id)
    second = (torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(AskedError, match="from left to right"):
        any_subset(model)(Query(x, torch.ones(1, LENGTH).double(), at=second)).log_prob(x)


def test_a_text_longer_than_the_network_writes_is_refused():
    model = small_model()
    x = torch.full((1, LENGTH + 1), model.mask_id)
    with pytest.raises(AskedError, match="at most 4"):
        any_subset(model)(Query(x, torch.ones(1, LENGTH + 1).double()))


def test_a_network_without_positions_is_refused():
    from transformers import RoFormerConfig, RoFormerForMaskedLM

    tokenizer = character_tokenizer("abc", (*naming(NEXT, LENGTH), *naming(AGAIN, LENGTH)))
    config = RoFormerConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = TextModel.from_parts(RoFormerForMaskedLM(config), tokenizer, processes=("ascending",))
    with pytest.raises(ModelError, match="positions"):
        model.predictor("ascending")


# -- by the pipeline --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(ordered):
    return textdiff.load(ordered[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prosody": "strict", "acrostic": "春风秋月"},
        {"title": "山", "guidance": 1.5},
        pytest.param({"prosody": "strict", "particles": 2}, marks=pytest.mark.slow),
        {"keyword": "明月"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_poem_k_is_the_poem_of_its_seed_at_any_batch_size(pipe, options):
    options = {"form": "wuyan-jueju"} | options
    n = 2 if "particles" in options else 3
    together = pipe.generate(n=n, seed=6 - n, **options)
    assert pipe.generate(n=1, seed=5, **options)[0].text == together[-1].text
    assert [one.text for one in pipe.generate(n=n, seed=6 - n, batch_size=n - 1, **options)] == [
        one.text for one in together
    ]
    if options.get("prosody") == "strict":
        assert not any(check(one.text).broken for one in together)


def test_what_is_given_stands(pipe):
    (one,) = pipe.fill("床前□月光，□是地上霜。\n□头望明月，低头思□乡。", seed=1)
    assert one.text[:2] == "床前" and one.text[3:6] == "月光，" and "低头思" in one.text and "□" not in one.text


def test_a_score_is_exact_and_is_the_product_of_the_laws_of_the_characters(pipe):
    (score,) = pipe.score(tiny.QUATRAIN)
    assert score.exact and score.standard_error is None and score.process == "ascending"
    model = pipe.model
    x = model.encode(["".join(c for c in tiny.QUATRAIN if c in tiny.CHARACTERS)])
    free = torch.ones_like(x, dtype=torch.bool)
    with torch.inference_mode():
        law = model.predictor("ascending")(
            Query(torch.full_like(x, model.mask_id), free.double(), condition=model.condition(1, form="wuyan-jueju"))
        )
    assert score.nats_per_char == pytest.approx(-law.log_prob(x)[0].mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"variations": 2}, {"prosody": "strict"}], ids=["rounds", "variations", "strict"]
)
def test_a_poem_is_revised_hole_by_hole(pipe, options):
    revised = pipe.refine(tiny.QUATRAIN, seed=2, **options)
    assert revised and all(len(one.after) == len(tiny.QUATRAIN) and "□" not in one.after for one in revised)
    kept = pipe.refine(tiny.QUATRAIN, seed=2, keep=[1], **options)
    assert all(one.after.startswith("床前明月光") for one in kept) or "prosody" in options


def test_samplers_that_choose_an_order_do_not_serve_it(pipe):
    with pytest.raises(AskedError, match="does not serve process 'ascending'"):
        pipe.generate(form="wuyan-jueju", process="ascending", sampler="confidence")
