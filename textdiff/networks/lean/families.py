"""What a folder's config.json and weights say of an encoder that `network.Encoder` can compute.

A family is what Hugging Face calls a model type.  Nothing is guessed: `shape_of` gives None for a family, an activation or a
setting that is not listed here, and `joined` for weights that are not exactly those of the shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"
ACTIVATIONS = ("gelu", "relu", "silu", "linear")


@dataclass(frozen=True)
class Shape:
    """Sizes and settings, each under the name that it has in ModernBERT's config.json, and with the default of that."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    layer_types: list[str]  # FULL or SLIDING, layer by layer
    local_attention: int  # columns that a sliding layer sees, to both sides together
    rope_parameters: dict[str, Any] = field(default_factory=dict)  # by layer type; none where positions are learned
    norm_eps: float = 1e-5
    hidden_activation: str = "gelu"
    classifier_activation: str = "gelu"  # of the masked-LM head
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    classifier_bias: bool = False
    decoder_bias: bool = True
    type_vocab_size: int = 0  # token types, of which the first alone is used

    @property
    def modern(self) -> bool:
        """Rotary positions, norms before, a gated feed-forward; or learned positions, norms after, a plain one."""
        return bool(self.rope_parameters)


@dataclass(frozen=True)
class Family:
    """How a family writes its settings, and what it calls its weights."""

    keys: Mapping[str, str]  # field of Shape -> key of config.json, where it is called otherwise
    always: Mapping[str, Any]  # field of Shape -> its value in this family
    fixed: Mapping[str, Any]  # key -> the one value with which the network is the one that is computed here
    names: Mapping[str, tuple[str, ...]]  # weight of ours -> what is joined to it, row below row; {k} is a layer
    surplus: str = "$."  # a pattern of weights that may be there and are not read


# Keys that change nothing here: tokens, training, dropout, other heads.
_SILENT = """
    architectures attention_dropout attention_probs_dropout_prob bos_token_id classifier_dropout classifier_pooling
    cls_token_id deterministic_flash_attn dropout dtype embedding_dropout eos_token_id gradient_checkpointing
    hidden_dropout_prob initializer_cutoff_factor initializer_range mask_token_id mlp_dropout pad_token_id qa_dropout
    sep_token_id seq_classif_dropout sparse_pred_ignore_index sparse_prediction torch_dtype transformers_version
    use_cache _name_or_path
"""
FIXED = {"tie_word_embeddings": True, "attn_implementation": None}
OLD: dict[str, Any] = {  # what the families of before ModernBERT have in common
    "rope_parameters": {},
    "layer_types": None,
    "local_attention": 0,
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias"), True),
}


def _bert(body: str, head: Mapping[str, tuple[str, ...]], always: Mapping[str, Any], surplus: str) -> Family:
    layer = body + ".encoder.layer.{k}."
    keys = {"norm_eps": "layer_norm_eps", "hidden_activation": "hidden_act", "classifier_activation": "hidden_act"}
    return Family(
        keys={theirs: key for theirs, key in keys.items() if theirs not in always},
        always={**OLD, **always},
        fixed={**FIXED, "is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
        names={
            "words": (body + ".embeddings.word_embeddings.weight",),
            "places": (body + ".embeddings.position_embeddings.weight",),
            "kinds": (body + ".embeddings.token_type_embeddings.weight",),
            "embedded": (body + ".embeddings.LayerNorm",),
            "read": tuple(layer + f"attention.self.{part}" for part in ("query", "key", "value")),
            "write": (layer + "attention.output.dense",),
            "attention norm": (layer + "attention.output.LayerNorm",),
            "up": (layer + "intermediate.dense",),
            "down": (layer + "output.dense",),
            "feed norm": (layer + "output.LayerNorm",),
            **head,
        },
        surplus=rf"{body}\.(pooler\.dense\.(weight|bias)|embeddings\.position_ids){surplus}",
    )


_BERT = _bert(
    "bert",
    {
        "head": ("cls.predictions.transform.dense",),
        "head norm": ("cls.predictions.transform.LayerNorm",),
        "vocabulary": ("cls.predictions.bias",),
    },
    always={},
    surplus=r"|cls\.seq_relationship\.(weight|bias)",
)
_ROBERTA = _bert(
    "roberta",
    {"head": ("lm_head.dense",), "head norm": ("lm_head.layer_norm",), "vocabulary": ("lm_head.bias",)},
    always={"classifier_activation": "gelu"},
    surplus="",
)
_DISTILBERT = Family(
    keys={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "hidden_activation": "activation",
        "classifier_activation": "activation",
    },
    always={**OLD, "norm_eps": 1e-12, "type_vocab_size": 0},
    fixed={**FIXED, "sinusoidal_pos_embds": False},
    names={
        "words": ("distilbert.embeddings.word_embeddings.weight",),
        "places": ("distilbert.embeddings.position_embeddings.weight",),
        "embedded": ("distilbert.embeddings.LayerNorm",),
        "read": tuple("distilbert.transformer.layer.{k}.attention." + part for part in ("q_lin", "k_lin", "v_lin")),
        "write": ("distilbert.transformer.layer.{k}.attention.out_lin",),
        "attention norm": ("distilbert.transformer.layer.{k}.sa_layer_norm",),
        "up": ("distilbert.transformer.layer.{k}.ffn.lin1",),
        "down": ("distilbert.transformer.layer.{k}.ffn.lin2",),
        "feed norm": ("distilbert.transformer.layer.{k}.output_layer_norm",),
        "head": ("vocab_transform",),
        "head norm": ("vocab_layer_norm",),
        "vocabulary": ("vocab_projector.bias",),
    },
)
_MODERNBERT = Family(
    keys={},
    always={"type_vocab_size": 0},
    fixed=FIXED,
    names={
        "words": ("model.embeddings.tok_embeddings.weight",),
        "embedded": ("model.embeddings.norm",),
        "read": ("model.layers.{k}.attn.Wqkv",),
        "write": ("model.layers.{k}.attn.Wo",),
        "attention norm": ("model.layers.{k}.attn_norm",),
        "up": ("model.layers.{k}.mlp.Wi",),
        "down": ("model.layers.{k}.mlp.Wo",),
        "feed norm": ("model.layers.{k}.mlp_norm",),
        "last norm": ("model.final_norm",),
        "head": ("head.dense",),
        "head norm": ("head.norm",),
        "vocabulary": ("decoder.bias",),
    },
)
FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
}


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape that config.json describes, or None where it says something that is not known here for certain."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    known, told = {*_SILENT.split(), *family.fixed}, dict(family.always)
    for one in fields(Shape):
        key = family.keys.get(one.name, one.name)
        if one.name in told:
            continue
        known.add(key)
        if key not in config:
            return None  # the families have defaults of their own, and a saved config.json says them all
        told[one.name] = config[key]
    if set(config) - known or any(config.get(key, value) != value for key, value in family.fixed.items()):
        return None
    if told["layer_types"] is None:
        told["layer_types"] = [FULL] * told["num_hidden_layers"]
    shape = Shape(**told)
    return shape if _sound(shape) else None


def _sound(shape: Shape) -> bool:
    kinds: dict[str, type] = {
        "int": int,
        "float": float,
        "str": str,
        "bool": bool,
        "list[str]": list,
        "dict[str, Any]": dict,
    }
    if any(type(getattr(shape, one.name)) is not kinds[str(one.type)] for one in fields(shape)):
        return False
    used = set(shape.layer_types)
    ropes = [shape.rope_parameters.get(kind) for kind in used] if shape.modern else []
    return (
        len(shape.layer_types) == shape.num_hidden_layers > 0
        and shape.num_attention_heads > 0
        and shape.hidden_size % shape.num_attention_heads == 0
        and used <= ({FULL, SLIDING} if shape.modern else {FULL})
        and all(rope and set(rope) == {"rope_type", "rope_theta"} and rope["rope_type"] == "default" for rope in ropes)
        and {shape.hidden_activation, shape.classifier_activation} <= set(ACTIVATIONS)
    )


def sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every weight of ours -> its size.  A layer's are called "3 read weight", with the number of the layer in front."""
    width, inner = shape.hidden_size, shape.intermediate_size
    found: dict[str, tuple[int, ...]] = {"words": (shape.vocab_size, width)}
    if not shape.modern:
        found["places"] = (shape.max_position_embeddings, width)
    if shape.type_vocab_size:
        found["kinds"] = (shape.type_vocab_size, width)

    def add(name: str, bias: bool, *size: int) -> None:
        found[f"{name} weight"] = size
        if bias:
            found[f"{name} bias"] = size[:1]

    add("embedded", shape.norm_bias, width)
    for k in range(shape.num_hidden_layers):
        add(f"{k} read", shape.attention_bias, 3 * width, width)
        add(f"{k} write", shape.attention_bias, width, width)
        add(f"{k} up", shape.mlp_bias, inner * (1 + shape.modern), width)
        add(f"{k} down", shape.mlp_bias, width, inner)
        add(f"{k} feed norm", shape.norm_bias, width)
        if k > 0 or not shape.modern:  # what a first layer reads is normalised already
            add(f"{k} attention norm", shape.norm_bias, width)
    if shape.modern:
        add("last norm", shape.norm_bias, width)
    add("head", shape.classifier_bias, width, width)
    add("head norm", shape.norm_bias, width)
    if shape.decoder_bias:
        found["vocabulary"] = (shape.vocab_size,)
    return found


def parts(shape: Shape, name: str) -> list[str]:
    """What a file calls the parts of our weight `name`, row below row."""
    layer, stem, kind = re.fullmatch(r"(?:(\d+) )?(.*?)( weight| bias)?", name).groups()  # type: ignore[union-attr]
    return [part.format(k=layer) + (kind or "").replace(" ", ".") for part in FAMILIES[shape.model_type].names[stem]]


def joined(
    shape: Shape, stored: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor]
) -> dict[str, Tensor] | None:
    """Our weights, read from a file with the `stored` sizes; None unless these are the weights of the shape and no others."""
    ours = {name: (parts(shape, name), size) for name, size in sizes(shape).items()}
    surplus = set(stored) - {part for names, _ in ours.values() for part in names}
    if any(not re.fullmatch(FAMILIES[shape.model_type].surplus, name) for name in surplus):
        return None
    for names, size in ours.values():
        if any(stored.get(part) != (size[0] // len(names), *size[1:]) for part in names):
            return None
    return {
        name: read(names[0]) if len(names) == 1 else torch.cat([read(part) for part in names])
        for name, (names, _) in ours.items()
    }


def split(shape: Shape, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names that a file gives them: the inverse of `joined`."""
    named = {name: parts(shape, name) for name in weights}
    return {
        part: piece
        for name, names in named.items()
        for part, piece in zip(names, weights[name].chunk(len(names)), strict=True)
    }
