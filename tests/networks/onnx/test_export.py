"""A network that was exported to ONNX gives the logits of the network that it was made of, and draws and scores like it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny import QUATRAIN, ordered_model, poem_model, saved, sentence_model, window_model

from textdiff import cli
from textdiff.core.errors import AskedError, ModelError
from textdiff.networks.folder import TextModel
from textdiff.networks.onnx import export as exporting
from textdiff.networks.onnx.export import SMALL, WHOLE, export, from_onnx
from textdiff.pipeline.text import TextPipeline

pytestmark = pytest.mark.slow
for name in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[TextModel, exporting.Exported]:
    model = poem_model(form="wuyan-jueju")
    return model, export(model, tmp_path_factory.mktemp("onnx") / "poems", int8=True)


def test_the_export_draws_and_scores_as_the_network_does(exported):
    model, found = exported
    pipe, other = TextPipeline.of(model), TextPipeline.of(from_onnx(found.folder))
    assert found.difference < 1e-4 and other.model.processes == model.processes
    assert [one.text for one in other.generate(n=3)] == [one.text for one in pipe.generate(n=3)]
    assert other.fill("床前□□光", title="月")[0].text == pipe.fill("床前□□光", title="月")[0].text
    scores = [p.score([QUATRAIN, QUATRAIN[::-1]], levels=3, repeats=1) for p in (pipe, other)]
    assert [one.nats_per_char for one in scores[1]] == pytest.approx([one.nats_per_char for one in scores[0]], abs=1e-4)


def test_eight_bits_are_smaller_and_somewhat_further_away(exported):
    model, found = exported
    assert found.int8_size < found.size and found.difference < found.int8_difference
    pipes = [TextPipeline.of(one) for one in (model, from_onnx(found.folder, SMALL))]
    whole, small = (pipe.score(QUATRAIN, levels=5)[0].nats_per_char for pipe in pipes)
    assert 0 < abs(small - whole) < 0.5 * whole


@pytest.mark.parametrize("make", [sentence_model, window_model], ids=["words", "windows"])
def test_models_of_running_text_are_exported_too(make, tmp_path):
    model = make()
    assert export(model, tmp_path / "out").difference < 1e-4
    text = "the _ sat on the _ ." if make is sentence_model else "abc _ef"
    found = TextPipeline.of(from_onnx(tmp_path / "out")).fill(text, n=3)
    assert [one.text for one in found] == [one.text for one in TextPipeline.of(model).fill(text, n=3)]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    folder = Path(saved(sentence_model(), tmp_path / "model"))
    with pytest.raises(AskedError, match="holds a model, which an export must not replace"):
        export(sentence_model(), folder)
    ordered = ordered_model()
    with pytest.raises(AskedError, match="none of it reads tokens in any order"):
        export(TextModel.from_parts(ordered.model, ordered.tokenizer, processes=("ascending",)), tmp_path / "out")
    monkeypatch.setattr(exporting, "NEAR", 0.0)
    with pytest.raises(ModelError, match="the logits of the export are wrong by"):
        export(sentence_model(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_far_the_export_is_and_what_it_costs(tmp_path, capsys):
    model, out = saved(poem_model(form="wuyan-jueju"), tmp_path / "model"), tmp_path / "out"
    texts = tmp_path / "in.txt"
    texts.write_text(f"{QUATRAIN}\n\n床前明月光，疑是地上霜。\n举头望明月，思故低头乡。\n", encoding="utf-8")
    command = ["export", "onnx", model, str(out), "--int8", "--texts", str(texts)]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"model\.onnx  \d\.\d MB, logits differ by at most \S+", lines[0])
    assert re.fullmatch(r"  bound \S+ → \S+ nats per character of 2 texts: \+?-?0\.0000 \[\S+, \S+\]", lines[1])
    assert lines[2].startswith("model.int8.onnx  ") and len(lines) == 4
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {WHOLE, SMALL} and abs(report[WHOLE]["bound"]["difference"]) < 1e-4
