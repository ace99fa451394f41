"""Where the folder of a backbone is: a path as it stands, or what the Hugging Face hub has under a name or an id, at one commit.

Only weights as safetensors, settings and chat templates are fetched, into the hub's own cache (`HF_HOME`), which goes on where it was
interrupted and gives a snapshot only when it is whole. Pickled weights and code are never asked for.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from mr1jax.config import require
from mr1jax.model.backbones import BACKBONES

_PART = r"\w(?:[\w.-]*\w)?"  # no "..", and no "-" in front
_ID = re.compile(rf"(?!.*\.\.){_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(rf"(?!.*\.\.){_PART}(?:/{_PART})*", re.ASCII)
SETTINGS = ("config.json",)
_FETCHED = ("*.safetensors", "*.json", "*.jinja")
_LEFT = ["*/*"]  # folders inside a model hold it in other formats


def find_backbone(backbone: str, fetched: Sequence[str] = _FETCHED) -> tuple[str, Path]:
    """Returns the pinned name of a backbone and the folder with its files, fetching them where they are not there.

    backbone: a folder; a name of the table ("qwen2.5-0.5b"); or an id of the hub ("Qwen/Qwen2.5-0.5B-Instruct"). The last two may go on
    with a commit, tag or branch ("@main", which is the default). The pinned name of a folder is itself; else it is the id with the
    commit that was found, and stands for the same bytes at any time.
    fetched: patterns of the files wanted; SETTINGS is enough to know its size.

    Raises ValueError, one sentence, for what is none of these, what the hub does not have or does not give, and without a network.
    """
    if Path(backbone).is_dir():
        return backbone, Path(backbone)
    name, _, revision = backbone.partition("@")
    repository = BACKBONES.get(name, name)
    require(
        _ID.fullmatch(repository) is not None,
        f"there is no folder {backbone!r}; give a folder, an id of the Hugging Face hub as owner/model, or one of {', '.join(BACKBONES)}",
    )
    require(
        not revision or _REVISION.fullmatch(revision) is not None,
        f"{revision!r} names no commit, tag or branch of {repository}; leave it out, or give one",
    )
    folder = _fetch(repository, revision or "main", fetched)
    return f"{repository}@{folder.name}", folder


def _fetch(repository: str, revision: str, fetched: Sequence[str]) -> Path:
    """Returns the folder of one snapshot, which is named after its commit."""
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(fetched), ignore_patterns=_LEFT))
    except GatedRepoError as error:
        raise ValueError(f"the hub gives {repository} to those who accepted its terms; accept them there and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{repository} is neither a folder nor a model of the Hugging Face hub; check its spelling, and set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{repository} has no revision {revision!r} on the hub; leave it out, or give a commit or a branch") from error
    except (HTTPError, OSError) as error:
        reason = type(error.__cause__ or error).__name__
        raise ValueError(
            f"{repository} cannot be fetched from the Hugging Face hub ({reason}); try again with a network, or give the path of a folder"
        ) from error
