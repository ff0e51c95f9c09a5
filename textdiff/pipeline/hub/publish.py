"""A model's folder with its card: written, and put on the hub."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.networks.files import CARD
from textdiff.networks.folder import TextModel
from textdiff.pipeline.hub.card import card_of

OF_REPOSITORY, OF_UPLOAD = ("private",), ("commit_message", "revision", "create_pr")


def save(model: TextModel, folder: Path, card: str | None) -> None:
    """Write the folder, and the card where there is none, or where one is given."""
    model.save_pretrained(folder)
    path = folder / CARD
    if card is not None or not path.exists():
        new = path.with_name(f".{CARD}.new")
        new.write_text(card_of(model) if card is None else card, encoding="utf-8")
        os.replace(new, path)


def push(model: TextModel, repo_id: str, card: str | None, api: Any, token: Any = None, **more: Any) -> Any:
    """What `upload_folder` of the hub gives: the commit."""
    for name in more:
        if name not in OF_REPOSITORY + OF_UPLOAD:
            known = ", ".join((*OF_REPOSITORY, "token", *OF_UPLOAD))
            raise AskedError(f"push_to_hub takes no {name!r}; it takes {known}")
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    made = {name: more[name] for name in OF_REPOSITORY if name in more}
    upload = {"commit_message": "Upload a model of textdiff"} | {name: more[name] for name in OF_UPLOAD if name in more}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(model, folder, card)
        repository = api.create_repo(repo_id, exist_ok=True, **made)
        return api.upload_folder(repo_id=getattr(repository, "repo_id", repo_id), folder_path=folder, **upload)
