"""Networks as predictors: parity with the whole model, the prefix, independence of rows, causal models."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, PHANTOM, assert_near, folders, plain, poems  # noqa: F401  (fixtures)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from textdiff.core.contracts import Query
from textdiff.core.levels import count_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.networks import fast_float32
from textdiff.networks.causal import Autoregressive, causal_lm
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import POEM_PREFIX, POEM_SPECIALS, character_tokenizer
from textdiff.processes.mask import Mask
from textdiff.samplers.ancestral import baseline, improved
from textdiff.shaping.tokens import banned, tempered
from textdiff.verify.enumeration import enumerate_draws


def holed(model, text="the cat sat on the mat", rows=3, seed=0):
    """Rows of one text, some tokens masked, the first always."""
    x = model.encode([text] * rows)
    hole = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    hole[:, 0] = True
    return torch.where(hole, model.mask_id, x), hole


def levels_of(free):
    return torch.where(free, 0.5, 0.0).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_asked_positions_are_those_of_the_whole_model(family, folders, plain):
    model = plain[family]
    x, hole = holed(model)
    text = model.tokenizer("the cat sat on the mat")["input_ids"]
    ids = torch.tensor([text] * 3)
    ids[:, -1 - x.shape[1] : -1] = x
    full = AutoModelForMaskedLM.from_pretrained(folders / family).eval()(input_ids=ids).logits
    ours = model.predictor("mask")(Query(x, levels_of(hole), at=positions_of(hole))).logits()
    scored = torch.cat([model.content, torch.tensor([model.unk_id])])
    assert_near(ours[:, scored], full[:, -1 - x.shape[1] : -1][hole][:, scored])
    rest = torch.ones(full.shape[-1], dtype=torch.bool).index_fill(0, scored, False)
    assert (ours[:, rest] == -torch.inf).all() and rest.sum() >= PHANTOM + 4


@pytest.mark.parametrize("family", FAMILIES)
def test_any_masked_lm_samples_text_without_special_or_phantom_tokens(family, plain):
    model = plain[family]
    given, free = holed(model, rows=40)
    predictor = tempered(banned(model.predictor("mask"), [model.unk_id]), 5.0)
    run = {"predictor": predictor, "process": model.process("mask"), "rng": Rng(range(40))}
    with torch.inference_mode():
        *_, state = sample(given, free, count_levels(free.sum(-1)), improved(), **run)
    assert torch.isin(state.x, model.content).all()
    assert (state.x == given)[~free].all()
    assert len(model.decode(state.x)) == 40
    special = set(model.tokenizer.all_special_ids) | set(range(len(model.tokenizer), len(model.tokenizer) + PHANTOM))
    assert not special & set(model.content.tolist())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_gradients_are_those_of_the_whole_model(family, folders, plain):
    model, full = plain[family], AutoModelForMaskedLM.from_pretrained(folders / family).eval()
    x, hole = holed(model)
    target = model.encode(["the cat sat on the mat"] * 3)
    ids = torch.tensor([model.tokenizer("the cat sat on the mat")["input_ids"]] * 3)
    ids[:, -1 - x.shape[1] : -1] = x
    scored = torch.cat([model.content, torch.tensor([model.unk_id])])
    logits = full(input_ids=ids).logits[:, -1 - x.shape[1] : -1]
    limited = torch.full_like(logits, -torch.inf).index_copy(-1, scored, logits[..., scored])
    torch.nn.functional.cross_entropy(limited[hole], target[hole], reduction="sum").backward()
    model.model.zero_grad()
    model.predictor("mask")(Query(x, levels_of(hole), at=positions_of(hole))).nll(target).sum().backward()
    theirs = {name: p.grad for name, p in full.named_parameters()}
    for name, parameter in model.model.named_parameters():
        if theirs[name] is not None:
            assert_near(parameter.grad, theirs[name], 1e-4)
    model.model.zero_grad()


class Widest(TorchDispatchMode):
    """The most rows of `size` entries in any tensor that an operation gives."""

    def __init__(self, size):
        TorchDispatchMode.__init__(self)
        self.size, self.rows = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.shape[-1:] == (self.size,):
                self.rows = max(self.rows, value.numel() // self.size)
        return result


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_no_tensor_over_all_positions_and_tokens_is_built(family, plain):
    model = plain[family]
    x, hole = holed(model, rows=60)
    first = torch.zeros_like(hole)
    first[:, 0] = True
    with torch.no_grad(), Widest(model.model.config.vocab_size) as seen:
        model.predictor("mask")(Query(x, levels_of(hole), at=positions_of(first))).draw(rng=Rng(range(60)))
    assert seen.rows == 60 < x.numel(), "as many as asked"
    with torch.no_grad(), Widest(model.model.config.vocab_size) as whole:
        model.model(input_ids=x)
    assert whole.rows == x.numel(), "the measure sees what it should"


def test_rows_without_asked_positions_are_not_encoded(poems):
    x = torch.full((8, 20), poems.mask_id)
    seen = []
    handle = poems.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    predictor, t = poems.predictor("mask"), torch.ones(x.shape).double()
    where = torch.zeros(x.shape, dtype=torch.bool)
    where[[2, 5], 3:5] = True
    some = predictor(Query(x, t, at=positions_of(where)))
    none = predictor(Query(x, t, at=positions_of(torch.zeros_like(where))))
    handle.remove()
    assert seen == [2]
    assert none.draw(rng=Rng(range(8))).equal(x) and none.logits().shape == (0, poems.model.config.vocab_size)
    full = predictor(Query(x, t))
    assert some.logits().equal(full.logits().view(8, 20, -1)[where])


def test_asking_nothing_in_particular_asks_everywhere(poems):
    x = torch.full((2, 20), poems.mask_id)
    prediction = poems.predictor("mask")(Query(x, torch.ones(x.shape).double()))
    assert (
        len(prediction.at[0]) == 40 and torch.isin(prediction.draw(rng=Rng([1, 2])), poems.content).float().mean() > 0.9
    )


def full_width(model, condition, x):
    ids = torch.cat([condition, x], 1)
    return model.model(input_ids=ids, attention_mask=(ids != model.pad_id).long()).logits[:, condition.shape[1] :]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"form": "wuyan-jueju"},
        {"form": "wuyan-jueju", "dynasty": "tang", "title": "明月"},
        {"form": ["wuyan-jueju", None, "qiyan-jueju"], "title": ["明", "床前明月光疑是地上霜", None]},
    ],
)
def test_leaving_empty_slots_out_changes_nothing(poems, told):
    x = torch.where(torch.arange(20) % 3 > 0, poems.mask_id, poems.content[:20]).repeat(3, 1)
    t = torch.full(x.shape, 0.7).double()
    condition = poems.condition(3, process="mask", **told)
    full = full_width(poems, condition, x)
    ours = poems.predictor("mask")(Query(x, t, condition=condition)).logits().view(3, 20, -1)
    assert_near(ours[..., poems.content], full[..., poems.content])


def test_padding_is_not_seen(poems):
    short = poems.content[:14].repeat(2, 1)
    long = torch.cat([short, torch.full((2, 6), poems.pad_id)], 1)
    predictor = poems.predictor("replacement")
    alone = predictor(Query(short, torch.full(short.shape, 0.5).double())).logits().view(2, 14, -1)
    beside = predictor(Query(long, torch.where(long == poems.pad_id, 0.0, 0.5).double()))
    assert_near(alone, beside.select(long != poems.pad_id).logits().view(2, 14, -1))
    mixed = torch.cat([long, poems.content[:20].repeat(1, 1)])
    both = predictor(Query(mixed, torch.where(mixed == poems.pad_id, 0.0, 0.5).double())).logits().view(3, 20, -1)
    assert_near(alone, both[:2, :14])


def test_a_padded_sentence_ends_where_its_text_does(plain):
    model = plain["bert"]
    short, hole = holed(model)
    long = torch.cat([short, torch.full((3, 4), model.pad_id)], 1)
    at = positions_of(hole)
    alone = model.predictor("mask")(Query(short, levels_of(hole), at=at)).logits()
    assert_near(alone, model.predictor("mask")(Query(long, torch.zeros(long.shape).double(), at=at)).logits())


@pytest.mark.parametrize(
    "process, share, level",
    [
        ("mask", 0.5, None),
        ("replacement", 0.5, 16),
        ("uniform", 0.5, 16),
        ("replacement", 0.7, 22),
        ("uniform", 0.3, 10),
    ],
)
def test_the_level_told_is_the_corrupted_share_of_the_whole_text(poems, process, share, level):
    """Rounded to the nearest of 64 parts: 7 of 20 are 22.4 of them, and 3 of 20 are 9.6."""
    x = poems.content[:20].repeat(2, 1)
    t = torch.zeros(x.shape).double()
    t[:, :10] = share  # of 10 free positions, of 20 in all
    seen = []
    handle = poems.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    poems.predictor(process)(Query(x, t, condition=poems.condition(2, form="wuyan-jueju")))
    handle.remove()
    names = poems.tokenizer.convert_ids_to_tokens(seen[0][0, :3].tolist())
    told = [] if level is None else [f"[level-{level}]"]
    assert names[: 2 + len(told)] == ["[wuyan-jueju]", f"[{process}]", *told]
    assert seen[0].shape[1] == 20 + 2 + len(told)


def test_the_condition_is_a_row_of_fixed_width(poems):
    told = poems.condition(2, form="qiyan-lushi", process=["mask", None], dynasty="song", title=["明月" * 9, "鬱"])
    names = [poems.tokenizer.convert_ids_to_tokens(row) for row in told.tolist()]
    assert names[0] == ["[qiyan-lushi]", "[mask]", "[PAD]", "[song]", *"明月明月明月明月"]
    assert names[1] == ["[qiyan-lushi]", "[PAD]", "[PAD]", "[song]", "[UNK]", *["[PAD]"] * 7]
    assert len(POEM_PREFIX) == 12 and poems.condition(3).eq(poems.pad_id).all()


def test_what_a_model_cannot_be_told_is_an_error(poems, plain):
    with pytest.raises(ValueError, match="form 'haiku' is unknown to model tiny-poems; it knows wuyan-jueju, "):
        poems.condition(1, form="haiku")
    with pytest.raises(ValueError, match="cannot be told a form"):
        plain["bert"].condition(1, form="wuyan-jueju")
    with pytest.raises(ValueError, match="2 values for 3 rows"):
        poems.condition(3, title=["月", "光"])
    with pytest.raises(ValueError, match="serves mask, not process 'replacement'"):
        plain["bert"].predictor("replacement")
    assert plain["bert"].condition(2, process="mask").shape == (2, 0)


@pytest.mark.parametrize("precision", ["none", "bf16"], ids=["default", "onednn"])
@pytest.mark.parametrize("width", [64, 384])
def test_logits_of_a_row_are_bit_equal_at_every_batch_size(width, precision):
    torch.manual_seed(0)
    tokenizer = character_tokenizer(map(chr, range(0x4E00, 0x4E00 + 2000)), POEM_SPECIALS)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        intermediate_size=width * 4,
        max_position_embeddings=80,
    )
    network = AutoModelForMaskedLM.from_config(config).eval()
    model = TextModel.from_parts(network, tokenizer, prefix=POEM_PREFIX)
    with fast_float32.through_onednn() if precision == "bf16" else torch.no_grad(), torch.inference_mode():
        for length in (1, 5, 13, 20, 28, 56) if width == 64 else (1, 5, 28):
            x = model.content[torch.randint(len(model.content), (64, length))]
            x = torch.where(torch.rand(x.shape) < 0.5, model.mask_id, x)
            one = torch.zeros(x.shape, dtype=torch.bool)
            one[:, 0] = True
            for where in (one, torch.ones_like(one)) if length in (1, 28) else (one,):
                results = []
                for rows in (64, 7, 1):
                    told = {"at": positions_of(where[:rows]), "condition": model.condition(rows, form="qiyan-jueju")}
                    prediction = model.predictor("mask")(Query(x[:rows], torch.ones(rows, length).double(), **told))
                    results.append(prediction.logits())
                for fewer in results[1:]:
                    assert fewer.equal(results[0][: len(fewer)]), f"length {length}, {len(fewer)} asked"


def test_logits_read_later_have_the_precision_of_the_call(poems):
    x, t = torch.full((3, 20), poems.mask_id), torch.ones(3, 20).double()
    predictor = poems.predictor("mask")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = predictor(Query(x, t))
        expected = inside.logits()
    with torch.no_grad():
        assert expected.dtype == torch.float32
        assert inside.logits().equal(expected)
        assert not predictor(Query(x, t)).logits().equal(expected)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=12, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    config.initializer_range = 0.5
    folder = tmp_path_factory.mktemp("causal")
    GPT2LMHeadModel(config).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_a_causal_draft_has_the_chain_s_law_given_what_is_known():
    """Enumerated: p(x0 | x1 known) by the chain alone, known tokens taken as they are."""
    torch.manual_seed(0)
    chain = torch.rand(4, 3).softmax(-1)  # row 3 starts

    def next_logits(prefix):
        last = prefix[:, -1] if prefix.shape[1] else torch.full((len(prefix),), 3)
        return chain[last].log()

    known, open_ = torch.tensor([[9, 1, 9]]), torch.tensor([[True, False, True]])

    def draft(items, rng):
        rows = len(items)
        return Autoregressive(next_logits, known.expand(rows, -1), open_.expand(rows, -1)).draw(rng=rng) @ torch.tensor(
            [9, 3, 1]
        )

    _, drawn, weight = enumerate_draws(draft, torch.zeros(1, 1, dtype=torch.long), 3)
    found = torch.zeros(27, dtype=torch.float64).index_add(0, drawn, weight.double())
    expected = torch.zeros(27, dtype=torch.float64)
    for first in range(3):
        for last in range(3):
            expected[first * 9 + 3 + last] = chain[3, first].double() * chain[1, last]
    assert_near(found, expected, 1e-6)


def test_a_causal_model_draws_under_the_baseline_sampler(causal):
    mask, content = 1, torch.arange(2, 11)
    given = torch.tensor([[mask, 5, mask, mask, 7, mask]]).repeat(6, 1)
    free = given == mask
    free[3:, 2] = False  # rows differ in what is open
    given[3:, 2] = 4
    predictor = causal_lm(causal, content, start_id=0)

    def run(rows):
        parts = {"predictor": predictor, "process": Mask(mask), "rng": Rng(torch.arange(6)[rows])}
        with torch.inference_mode():
            *_, state = sample(given[rows], free[rows], count_levels(free[rows].sum(-1)), baseline(), **parts)
        return state.x

    together = run(slice(0, 6))
    assert torch.isin(together, content).all() and (together == given)[~free].all()
    for k in range(6):
        assert run(slice(k, k + 1)).equal(together[k : k + 1]), "no row notices its neighbours"
