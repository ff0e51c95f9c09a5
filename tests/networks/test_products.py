"""Products at a lower precision, and with weights that are laid out once: near float32, and row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

import textdiff
from textdiff.cli import main
from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import positions_of
from textdiff.networks.folder import TextModel
from textdiff.networks.lean import network, products

MAKES = {"float32": None, "packed": products.packed, "bf16": products.bf16}
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return tiny.saved(tiny.poem_model(), tmp_path_factory.mktemp("products") / "m")


@pytest.fixture
def at_precision(monkeypatch, folder) -> Callable[[str], TextModel]:
    """The model with one kind of products, whatever pays here."""

    def model(name: str) -> TextModel:
        monkeypatch.setattr("textdiff.networks.masked_lm.maker", lambda *_: MAKES[name])
        return textdiff.load(folder).model

    return model


def logits(model: TextModel, x: Tensor) -> Tensor:
    predictor = model.predictor("mask")
    with torch.inference_mode():
        return predictor(Query(x, torch.ones(x.shape).double())).logits()[:, model.content]


def texts(model: TextModel, rows: int = 12) -> Tensor:
    x = model.content[torch.randint(len(model.content), (rows, 28), generator=torch.Generator().manual_seed(0))]
    return torch.where(torch.arange(28) % 3 == 0, model.mask_id, x)


@needs_onednn
def test_weights_that_are_laid_out_once_change_nothing_but_rounding(at_precision):
    usual = at_precision("float32")
    x = texts(usual)
    expected = logits(usual, x)
    torch.testing.assert_close(logits(at_precision("packed"), x), expected, rtol=0, atol=1e-5)


def test_bf16_moves_the_law_of_a_token_by_a_little_and_not_by_nothing(at_precision):
    usual = at_precision("float32")
    x = texts(usual)
    expected = logits(usual, x).softmax(-1)
    found = logits(at_precision("bf16"), x).softmax(-1)
    variation = (found - expected).abs().sum(-1) / 2
    assert 0 < variation.mean() < 0.02 and variation.max() < 0.1


@needs_onednn
@pytest.mark.parametrize("name", ["packed", "bf16"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_some_rows_has_the_bits_that_these_rows_have_among_others(name, bias):
    torch.manual_seed(0)
    product = MAKES[name](torch.randn(96, 64), torch.randn(96) if bias else None)
    x = torch.randn(130, 64)
    with torch.inference_mode():
        whole = product(x)
        for some in (slice(0, 16), slice(5, 22), slice(63, 130), slice(1, 130)):
            assert product(x[some]).equal(whole[some])


@needs_onednn
@pytest.mark.parametrize("name", MAKES)
def test_a_poem_is_the_same_at_every_batch_size(name, at_precision):
    pipe = textdiff.TextPipeline.of(at_precision(name))
    poems = [[one.text for one in pipe.generate("五绝", n=6, steps=8, batch_size=size)] for size in (6, 4, 1)]
    assert poems[0] == poems[1] == poems[2]


@needs_onednn
@pytest.mark.parametrize("name", MAKES)
def test_a_writer_writes_the_same_at_every_batch_size_beside_texts_with_a_title_too(name, monkeypatch, tmp_path):
    """A row that has a title makes the others hide the columns of one, which must change nothing in what they compute."""
    monkeypatch.setattr("textdiff.networks.masked_lm.maker", lambda *_: MAKES[name])
    pipe = textdiff.load(tiny.saved(tiny.ordered_model(), tmp_path / "writer"))
    told = {"form": "五绝", "process": "ascending", "title": ["春风", None, "秋", None]}
    texts = [[one.text for one in pipe.generate(n=4, batch_size=size, **told)] for size in (4, 3, 1)]
    assert texts[0] == texts[1] == texts[2]


@needs_onednn
@pytest.mark.parametrize("name", MAKES)
def test_a_hole_has_the_law_that_it_has_alone_column_by_column_to_the_bit(name, monkeypatch):
    """In bf16 a difference in the last place would be rounded to one that changes the draw of many a token."""
    monkeypatch.setattr("textdiff.networks.masked_lm.maker", lambda *_: MAKES[name])
    pipe = textdiff.load("poems-zh-writer")
    model, generator = pipe.model, torch.Generator().manual_seed(0)
    whole = model.content[torch.randint(2000, (9, 20), generator=generator)]
    open_ = torch.rand(9, 20, generator=generator) < torch.tensor([0.3, 0.6, 0.95]).repeat(3)[:, None]
    x, t = whole.masked_fill(open_, model.mask_id), open_.double()
    predictor, tolerance = model.predictor("ascending"), 0.0 if name == "bf16" else 1e-4
    with torch.inference_mode():
        expected = predictor(Query(x, t, at=positions_of(open_))).given(whole).logits()[:, model.content]
        row, first = positions_of(open_)[0], 0
        for k in range(9):
            written = x[k : k + 1].clone()
            for place in open_[k].nonzero()[:, 0].tolist():
                law = predictor(Query(written, t[k : k + 1], at=positions_of(written == model.mask_id))).given(written)
                found = law.read(torch.tensor([0]))[:, model.content]
                torch.testing.assert_close(found, expected[first : first + 1], rtol=0, atol=tolerance)
                written[0, place], first = whole[k, place], first + 1
    assert first == len(row)


@needs_onednn
@pytest.mark.parametrize("kind", ["none", "bool", "numbers"])
def test_attention_in_bf16_is_near_that_of_float32(kind):
    torch.manual_seed(0)
    q, key, v = torch.randn(3, 2, 4, 9, 16).unbind()
    seen = torch.rand(2, 1, 9, 9) < 0.6
    seen[..., 0] = True
    mask = {"none": None, "bool": seen, "numbers": torch.where(seen, 0.0, torch.finfo(torch.float).min)}[kind]
    expected = torch.nn.functional.scaled_dot_product_attention(q, key, v, attn_mask=mask)
    found = network._attended(*(part.bfloat16() for part in (q, key, v)), mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


@needs_onednn
@pytest.mark.parametrize(("columns", "features"), [(9, 64), (30, 16)])
def test_attention_in_bf16_gives_a_query_the_same_bits_beside_others_and_hidden_keys(columns, features):
    """Where sums are made in another order, one number in thousands is rounded to another one."""
    torch.manual_seed(0)
    q, key, v = torch.randn(3, 4000, 1, columns + 9, features).bfloat16().unbind()
    seen = (torch.arange(columns + 9) < columns).expand(len(q), 1, columns + 9, -1)
    with torch.inference_mode():
        whole = network._attended(q, key, v, seen)
        key, v = (part[:, :, :columns] for part in (key, v))
        assert network._attended(q, key, v, None).equal(whole)
        whole = whole[:, :, 4:5]
        assert network._attended(q[:, :, 4:5], key, v, None).equal(whole)
        each = [network._attended(*one, None) for one in zip(q[:, None, :, 4:5], key[:, None], v[:, None], strict=True)]
    assert torch.cat(each).equal(whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", products.PRECISIONS)
def test_a_thousand_poems_are_the_same_at_every_batch_size(precision):
    pipe = textdiff.load(precision=precision)
    poems = [[one.text for one in pipe.generate("五绝", n=1000, steps=4, batch_size=size)] for size in (64, 7, 1)]
    assert poems[0] == poems[1] == poems[2]


def test_other_products_leave_the_network_as_it_was(at_precision):
    network = at_precision("float32").model
    before = {name: weight.clone() for name, weight in network.stored().items()}
    other = network.multiplying(products.bf16)
    assert other is network.multiplying(products.bf16) is not network
    other.logits(torch.zeros(16, 32))
    assert other.products and not network.products
    assert all(weight.equal(before[name]) for name, weight in network.stored().items())


def test_auto_is_bf16_where_that_pays_and_float32_elsewhere(monkeypatch):
    weight = torch.zeros(4, 4)
    for pays in (False, True):
        monkeypatch.setattr(products, "bf16_pays", lambda pays=pays: pays)
        monkeypatch.setattr(products, "packing_serves", lambda: False)
        assert products.maker("auto", weight) is (products.bf16 if pays else None)
        assert products.maker("float32", weight) is None
        assert products.maker("bf16", weight) is products.bf16
        assert products.maker("auto", weight.bfloat16()) is None
    monkeypatch.setattr(products, "packing_serves", lambda: True)
    assert products.maker("float32", weight) is products.packed


def rounded_by_fours(weight: Tensor, bias: Tensor | None) -> products.Product:
    """What some libraries do: rows that are left over after those in blocks of four are computed another way."""

    def product(x: Tensor) -> Tensor:
        rest = len(x) % 4
        whole = torch.nn.functional.linear(x.double(), weight.double()).float()
        return torch.cat([whole[: len(x) - rest], whole[len(x) - rest :] * (1 + 1e-6)])

    return product


def few_by_another_path(least: int) -> products.Make:
    def make(weight: Tensor, bias: Tensor | None) -> products.Product:
        return lambda x: (x.double() @ weight.double().t() * (1 if len(x) >= least else 1 + 1e-6)).float()

    return make


@pytest.mark.parametrize(
    ("make", "least"), [*((few_by_another_path(k), k) for k in (1, 4, 16)), (rounded_by_fours, 16)]
)
def test_products_take_no_fewer_rows_than_agree_with_those_of_many(make, least):
    assert products.fewest_rows(make, torch.zeros(50, 24)) == least


@pytest.mark.parametrize("name", MAKES)
def test_from_the_fewest_rows_on_a_row_has_the_same_bits_whatever_their_number(name):
    torch.manual_seed(1)
    weight, x = torch.randn(300, 40), torch.randn(40, 40)
    product, fewest = (MAKES[name] or products.plain)(weight, None), products.fewest_rows(MAKES[name], weight)
    with torch.inference_mode():
        whole = product(x)
        assert all(product(x[:rows]).equal(whole[:rows]) for rows in range(fewest, 17))


def test_what_pays_is_found_by_computing():
    for pays in (products.packing_serves, products.bf16_pays):
        assert pays() is pays() and pays() in (True, False)


def test_an_unknown_precision_is_an_error_and_so_is_bf16_where_the_network_is_not_ours(folder):
    with pytest.raises(AskedError, match="precision is 'half'; it must be one of float32, bf16, auto"):
        textdiff.load(folder, precision="half")
    model = TextModel.from_pretrained(folder)
    with pytest.raises(AskedError, match="precision is 'bf16', but textdiff has no network of its own for model"):
        model.at_precision("bf16")
    assert model.at_precision("auto").precision == "auto"


def test_the_command_line_takes_a_precision(folder, capsys):
    assert main(["generate", "--model", folder, "--form", "五绝", "--precision", "bf16"]) == 0
    assert len(capsys.readouterr().out) > 20


@pytest.mark.parametrize(("gains", "pays"), [([2.0, 2.0, 2.0], True), ([2.0, 2.0, 1.0], False), ([1.0], False)])
def test_a_busy_moment_does_not_decide_what_pays(monkeypatch, gains, pays):
    """A product must be clearly faster each time that it is looked at; where it is not, there is no second look."""
    left = [*gains]
    monkeypatch.setattr(products, "_gain", lambda *_: left.pop(0))
    assert products._pays(products.plain, products.packed) == pays and not left
