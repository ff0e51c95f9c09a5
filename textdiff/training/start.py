"""A start from the statistics of the training texts, which spares the network its long stay on the unigram plateau."""

from __future__ import annotations

from textdiff.predictors.folder import TextModel
from textdiff.training.data import Group


def start_from_statistics(text_model: TextModel, groups: list[Group]) -> None: ...
