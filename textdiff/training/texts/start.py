"""A start from the statistics of the training texts.

A masked LM from random weights sits for thousands of steps on the unigram plateau, because attention has first to find
out which positions are neighbours, and the embeddings which tokens belong together.  Both can be said beforehand:

output bias       log p(v) of the training texts
embeddings        rows of U·√S of a truncated SVD of the positive pointwise mutual information of tokens up to `window`
                  apart (Levy and Goldberg, 2014), mixed by a random rotation and brought to about one norm
attention         head h of layer l looks at a fixed offset o at first ("mimetic" initialisation, Trockman and Kolter,
                  2023).  With rotary positions a query k_q and a key k_k constant over tokens give the logit

                      Σ_f a_f cos(ω_f (p_q + o − p_k)),      k_k = (√a, 0),  k_q = (√a cos ωo, √a sin ωo)             (1)

                  which peaks at p_k = p_q + o.  The constant comes from a direction that all embeddings share.

The attention part needs rotary positions (ModernBERT); other families get the bias and the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import AGAIN, named, names_position
from textdiff.training.data import Group

WINDOW = 4
COUNTED = 1 << 26  # tokens that are enough for the statistics
PIECE = 1 << 20  # tokens read at a time
NORM = 0.6  # of an embedding
SHARED = 0.6  # of the shared direction, relative to NORM
GAIN = 12.0  # of the peak of (1), in logits
OFFSETS = (-1, 1, -2, 2, None, -5, 5, -7, 7)  # None: a head without a fixed offset


def check_start(vocabulary: dict[str, int], prefix: tuple[str, ...], start: TextModel) -> None:
    """AskedError where texts with this vocabulary and prefix are none that `start` knows."""
    known = {
        token: k for token, k in start.tokenizer.get_vocab().items() if token in vocabulary or not names_position(token)
    }
    if vocabulary != known:
        raise AskedError(
            f"model {start.name} has another vocabulary ({len(start.tokenizer)} tokens, these data give "
            f"{len(vocabulary)}); to take it over, write tokenizer: {{kind: pretrained}}"
        )
    if prefix != start.prefix:
        raise AskedError(
            f"model {start.name} has {', '.join(start.prefix) or 'nothing'} before the text, these data have "
            f"{', '.join(prefix) or 'nothing'}; start from a model of the same kind of data"
        )


def start_from_model(network: Any, tokenizer: Any, prefix: tuple[str, ...], start: TextModel) -> None:
    """Give `network` the weights of `start`; AskedError where the two differ in vocabulary, prefix or shape."""
    check_start(tokenizer.get_vocab(), prefix, start)
    try:
        network.load_state_dict(start.model.state_dict())
    except RuntimeError as error:
        raise AskedError(
            f"model {start.name} is another network than model.type and model.config say; leave out model.config to take "
            f"over that of the model"
        ) from error
    network.tie_weights()


@torch.no_grad()
def say_nothing(model: Any, ids: list[int]) -> None:
    """Make the logits of `ids` 0 everywhere, until the network has learnt what they are."""
    model.get_input_embeddings().weight[ids] = 0.0
    head = model.get_output_embeddings()
    if head is not None:
        head.weight[ids] = 0.0
        if head.bias is not None:
            head.bias[ids] = 0.0


@torch.no_grad()
def start_from_statistics(text_model: TextModel, groups: list[Group], seed: int = 0) -> None:
    """Initialise the network of `text_model` in place from the texts of `groups`."""
    model: Any = text_model.model
    generator = torch.Generator().manual_seed(seed)
    table = model.get_input_embeddings().weight
    occur = torch.zeros(len(table), dtype=torch.long)
    for rows in read_through(groups):
        occur += torch.bincount(rows.flatten(), minlength=len(table))
    counts = occur.float()
    scored = (
        text_model.content
        if text_model.unk_id is None
        else torch.cat([text_model.content, torch.tensor([text_model.unk_id])]).unique()
    )
    table.copy_(torch.randn(table.shape, generator=generator) * NORM * table.shape[1] ** -0.5)
    table[scored] = NORM * pmi_embeddings(pair_counts(groups, scored, len(table)), table.shape[1], generator)
    head = model.get_output_embeddings()
    if head is not None and head.bias is not None:
        head.bias.fill_(-20.0)
        head.bias[scored] = (counts[scored] + 0.5).log() - counts.sum().log()
    say_nothing(model, named(AGAIN, text_model.tokenizer.get_vocab()))
    if model.config.model_type == "modernbert":
        look_at_neighbours(model, generator)
    model.tie_weights()


def pair_counts(groups: list[Group], scored: Tensor, size: int) -> Tensor:
    """How often two of the `scored` (S,) tokens stand up to WINDOW positions apart, symmetric, (S, S)."""
    place = torch.full((size,), -1)
    place[scored] = torch.arange(len(scored))
    pairs = torch.zeros(len(scored) * len(scored), dtype=torch.int32)  # as float32 a count would stop at 2²⁴
    for rows in read_through(groups):
        ids = place[rows]
        for offset in range(1, min(WINDOW, ids.shape[1] - 1) + 1):
            a, b = ids[:, :-offset].flatten(), ids[:, offset:].flatten()
            both = (a >= 0) & (b >= 0)
            index = a[both] * len(scored) + b[both]
            ones = torch.ones(len(index), dtype=torch.int32)
            pairs.scatter_add_(0, index, ones)  # in place: the table is 150 MB at 6,000 characters
    pairs = pairs.view(len(scored), len(scored)).float()
    return pairs + pairs.T


def read_through(groups: list[Group]) -> Iterator[Tensor]:
    """The free tokens of all texts, (k, L) at a time; of more than COUNTED tokens, pieces from the whole length of them."""
    total = sum(len(group.ids) * int(group.free.sum()) for group in groups)
    every = -(-total // COUNTED)
    for group in groups:
        step = max(1, PIECE // group.ids.shape[1])
        for first in range(0, len(group.ids), step * every):
            yield group.ids[first : first + step][:, group.free]


def pmi_embeddings(pairs: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Rows of about unit norm from a truncated SVD of the smoothed positive PMI, (S, width)."""
    total = pairs.sum().clamp(min=1)
    context = pairs.sum(0).pow(0.75)
    expected = total * (pairs.sum(1) / total)[:, None] * (context / context.sum().clamp(min=1e-12))
    information = torch.where(pairs > 0, ((pairs + 0.2) / (expected + 0.2)).log(), 0.0).clamp(min=0)
    rank = min(width, len(pairs))
    with torch.random.fork_rng(devices=[]):  # svd_lowrank takes no generator
        torch.manual_seed(generator.initial_seed())
        u, s, _ = torch.svd_lowrank(information, q=rank, niter=2)
    rows = torch.nn.functional.pad(u * s.sqrt(), (0, width - rank))
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    rows = (rows - rows.mean(0)) @ rotation
    norm = rows.norm(dim=1, keepdim=True)
    least = max(float(norm.median()) * 0.3, 1e-6)
    scaled: torch.Tensor = rows / norm.clamp(min=least)
    return scaled


def look_at_neighbours(model: Any, generator: torch.Generator) -> None:
    """Give the heads of a ModernBERT the offsets of (1), layer by layer in turn."""
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size, half = width // heads, width // heads // 2
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "tok_embeddings" not in name:
            scale = 0.6 * parameter.shape[1] ** -0.5 * (0.3 if name.endswith("Wo.weight") else 1.0)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    table = model.get_input_embeddings().weight
    shared = torch.randn(width, generator=generator)
    shared = (shared - shared.mean()) / (shared - shared.mean()).norm()
    table -= (table @ shared)[:, None] * shared  # then every embedding has the same part along `shared`
    table += SHARED * NORM * shared
    part = SHARED / math.sqrt(1 + SHARED**2) * math.sqrt(width)  # that part, after the embedding's layer norm
    theta = config.rope_parameters["full_attention"]["rope_theta"]
    omega = theta ** (-torch.arange(0, size, 2).float() / size)
    spread = (omega > 0.08).float()  # slow frequencies cannot tell neighbours apart
    amplitude = GAIN * math.sqrt(size) / part**2 * spread / spread.sum()
    for number, layer in enumerate(model.model.layers):
        qkv = layer.attn.Wqkv.weight
        rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
        qkv[: 2 * width] *= 0.3
        qkv[2 * width :] = rotation
        layer.attn.Wo.weight.copy_(0.5 * rotation.T / math.sqrt(1 + number))
        for head in range(heads if number < 4 else 0):
            offset = OFFSETS[(head + number) % heads % len(OFFSETS)]
            if offset is None:
                continue
            root = amplitude.sqrt()
            query = torch.cat([root * torch.cos(omega * offset), root * torch.sin(omega * offset)])
            key = torch.cat([root, torch.zeros(half)])
            qkv[head * size : (head + 1) * size] += query[:, None] * shared
            qkv[width + head * size : width + (head + 1) * size] += key[:, None] * shared
    model.head.dense.weight.copy_(torch.eye(width))
