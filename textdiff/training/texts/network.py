"""The network of a recipe for texts, before training, and its tokenizer: built anew, or taken from a model that is there."""

from __future__ import annotations

import copy
import difflib
import re
from typing import Any

import torch
import transformers

from textdiff.core.errors import RecipeError
from textdiff.networks.folder import TextModel
from textdiff.networks.masked_lm import HEADS
from textdiff.networks.text_parts import USUALLY_TOLD, embedding_rows
from textdiff.networks.tokenization import (
    AGAIN,
    NEXT,
    POEM_PREFIX,
    POEM_SPECIALS,
    TEXT_SPECIALS,
    character_tokenizer,
    frame,
    named,
    names_position,
    naming,
    sentencepiece_tokenizer,
)
from textdiff.processes import PROCESSES
from textdiff.training.checking import STARTS
from textdiff.training.sections import Recipe, Tokenizer
from textdiff.training.texts.start import check_start, say_nothing, start_from_model
from textdiff.verse.forms import FORMS

SHORT = 256  # tokens


def attend_plainly(model: Any, length: int) -> None:
    """Let a network keep the weights of its attention for the way back where the texts have at most `SHORT` tokens, on a CPU.

    There it takes less time than to compute them again in blocks, as the attention of torch does.
    """
    if length <= SHORT and not torch.accelerator.is_available():
        model.set_attn_implementation("eager")


def specials_of(recipe: Recipe) -> tuple[str, ...]:
    """The special tokens of a tokenizer that is made of the texts."""
    return (*(POEM_SPECIALS if recipe.kind.formed else TEXT_SPECIALS), *naming_positions(recipe))


def naming_positions(recipe: Recipe) -> tuple[str, ...]:
    """The tokens that name positions: the next one, of an ordered process, and with `model.repeats` those that repeat."""
    ordered = any(PROCESSES[name].ordered for name in recipe.processes)
    kinds = [NEXT] * ordered + [AGAIN] * recipe.model.repeats
    return tuple(token for kind in kinds for token in naming(kind, longest(recipe)))


def longest(recipe: Recipe) -> int:
    """The positions of the longest text."""
    return max(f.length for f in FORMS.values()) if recipe.kind.formed else recipe.data.length


def start_of(recipe: Recipe) -> TextModel | None:
    """The model that the recipe starts from; None of a network that is built anew."""
    start = recipe.model.pretrained or recipe.model.init
    return None if start in STARTS else TextModel.from_pretrained(None if start == "packaged" else start)


def tokenizer_of(recipe: Recipe, start: TextModel | None, made: Any) -> Any:
    """The tokenizer that the texts are tokenised with; `made` is what `Preparation` makes of the texts for it."""
    if start is not None and recipe.tokenizer == Tokenizer("pretrained"):
        return _with_positions(start.tokenizer, recipe)
    if recipe.tokenizer.kind == "pretrained":
        saved = transformers.AutoTokenizer.from_pretrained(recipe.tokenizer.path, trust_remote_code=False)
        return _with_positions(saved, recipe)
    specials = specials_of(recipe)
    if recipe.tokenizer.kind == "characters":
        return character_tokenizer(made, specials)
    return sentencepiece_tokenizer(model=recipe.tokenizer.path or bytes.fromhex(made), specials=specials)


def _with_positions(tokenizer: Any, recipe: Recipe) -> Any:
    """A tokenizer that is there already, with the tokens that name positions after its own, as far as it lacks them."""
    missing = [token for token in naming_positions(recipe) if token not in tokenizer.get_vocab()]
    if not missing:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer


def network(recipe: Recipe, tokenizer: Any, start: TextModel | None) -> TextModel:
    """The network that speaks with `tokenizer`, before any start from statistics; its slots include the conditions of the recipe."""
    poems = recipe.kind.formed
    prefix: tuple[str, ...] = ()
    if "[level-0]" in tokenizer.get_vocab():
        prefix = POEM_PREFIX if poems else ("process", "level")
    if start and (recipe.model.pretrained or not recipe.model.config):
        model: Any = start.model
        prefix = start.prefix
        check_start(_bare(tokenizer), prefix, start)
        missing = len(tokenizer) - embedding_rows(model)
        if missing > 0 and recipe.model.lora is not None:
            raise RecipeError(
                f"model.lora leaves the embeddings as they are, and {start.name} lacks those of {missing} tokens that this recipe "
                f"needs (of an ordered process, or of model.repeats); leave model.lora out"
            )
        if missing > 0:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            say_nothing(model, [k for k in named(AGAIN, tokenizer.get_vocab()) if k >= len(tokenizer) - missing])
    else:
        before, after = frame(tokenizer)
        positions = len(prefix) + len(before) + longest(recipe) + len(after) + tokenizer.pad_token_id + 1
        torch.manual_seed(recipe.run.seed)
        config = _config(recipe, tokenizer, positions)
        try:
            model = transformers.AutoModelForMaskedLM.from_config(config)
        except Exception as error:  # of many kinds: sizes that do not divide, names that are unknown, memory
            raise _impossible(recipe, error) from error
        if len(tokenizer) > config.vocab_size:
            raise RecipeError(
                f"model.config.vocab_size is {config.vocab_size}, and the tokenizer has {len(tokenizer)} tokens; leave it out"
            )
        say_nothing(model, named(AGAIN, tokenizer.get_vocab()))
        if start:
            start_from_model(model, tokenizer, prefix, start)
    if "attn_implementation" not in recipe.model.config:
        attend_plainly(model, longest(recipe))
    for name in recipe.conditioned:
        if name not in prefix:
            raise RecipeError(
                f"conditions has {name!r}, but the network has no slot for it; leave it out of conditions"
            )
    return TextModel.from_parts(
        model,
        tokenizer,
        processes=tuple(recipe.processes),
        prefix=prefix,
        told=(*USUALLY_TOLD, *(start.told if start else ()), *recipe.conditioned),
        defaults=recipe.defaults or (start.defaults if start else {}),
        name=recipe.name,
        schedule=recipe.model.schedule or (start.schedule if start else None),
        factor=recipe.model.factor or (start.factor if start else None),
        self_conditioning=recipe.model.self_conditioning,
    )


def _bare(tokenizer: Any) -> dict[str, int]:
    """The vocabulary without what `_with_positions` adds."""
    return {token: k for token, k in tokenizer.get_vocab().items() if not names_position(token)}


def _config(recipe: Recipe, tokenizer: Any, positions: int) -> Any:
    """The configuration of the network; RecipeError where the recipe's `model` section says something it cannot be."""
    kind, keys = recipe.model.type, recipe.model.config
    if kind not in HEADS:
        raise RecipeError(f"model.type is {kind!r}; expected one of {', '.join(sorted(HEADS))}")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    plain = transformers.AutoConfig.for_model(kind)
    known = {*plain.to_dict(), "attn_implementation"}
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise RecipeError(
                f"unknown key {f'model.config.{key}'!r} for {kind}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    special = {key: value for key, value in ids.items() if key in known}
    try:
        return transformers.AutoConfig.for_model(
            kind, **{"vocab_size": len(tokenizer), "max_position_embeddings": positions, **special, **keys}
        )
    except Exception as error:  # transformers checks types and sizes with errors of several kinds
        raise _impossible(recipe, error) from error


def _impossible(recipe: Recipe, error: Exception) -> RecipeError:
    reason = re.sub(r"\b\w+Error: ", "", " ".join(str(error).split()))[:200]
    if isinstance(error, KeyError):  # transformers looks names up in tables of its own, and says the name alone
        reason = f"{reason} is the name of nothing that it knows"
    return RecipeError(f"model.config does not make a {recipe.model.type} ({reason}); change the keys of model.config")
