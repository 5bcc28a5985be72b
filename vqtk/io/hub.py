"""Models on the Hugging Face hub: their names, and questions to the hub with its errors in words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from vqtk.errors import CheckpointError, VqtkError, printable

Result = TypeVar("Result")
SCHEME, BUNDLED = "hf://", "model.safetensors"
"""What a name on the hub begins with, and the name of the weights in a repository or bundle."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]{0,200}", re.ASCII)
_CLIENTS = ("httpx", "httpx2", "httpcore", "requests")
"""The packages whose errors mean that the hub was not reached."""


@dataclass(frozen=True)
class HubName:
    """A model on the hub: its repository `user/name`, and a branch, tag or commit; None for the newest."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName:
    """Return the name in `hf://user/name` or `hf://user/name@revision`; a path may have joined the slashes.

    Raises: CheckpointError.
    """
    name, at, revision = re.sub("^hf:/{1,2}", "", text).partition("@")
    if not _REPOSITORY.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise CheckpointError(
            f"{printable(text[:200])}: expected hf://user/name, or hf://user/name@revision for a branch, tag or commit."
        )
    return HubName(name, revision or None)


@cache
def fetched_weights(text: str) -> Path:
    """Return the weights file of a model on the hub, downloaded to the hub's cache; nothing else is downloaded.

    Raises: CheckpointError if there is no such model, or the hub cannot be reached.
    """
    name = hub_name(text)
    hub = hub_package()
    return Path(
        asked(name, lambda: hub.hf_hub_download(name.repository, BUNDLED, revision=name.revision, library_name="vqtk"))
    )


def hub_package() -> Any:
    """Return the package huggingface_hub. Raises: VqtkError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise VqtkError("models on the hub need the package huggingface_hub: pip install 'vqtk[hub]'.") from None
    return huggingface_hub


def asked(name: HubName, ask: Callable[[], Result]) -> Result:
    """Return the hub's answer. Raises: CheckpointError, in words without addresses, which may hold a signature."""
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ask()
    except errors.RepositoryNotFoundError:
        why = "there is no such model, or it is private. Check the name; for a private one: hf auth login"
    except errors.RevisionNotFoundError:
        why = f"it has no revision {name.revision!r}. Leave it out for the newest"
    except errors.EntryNotFoundError:
        why = f"no model of vqtk: it has no {BUNDLED}"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        why = f"the hub answered with an error ({status}). Try again later"
        if status in (401, 403):
            why = "the hub refused this. Log in with a token that may do it: hf auth login"
    except errors.LocalTokenNotFoundError:
        why = "you are not logged in to the hub. Run: hf auth login"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        why = "the hub cannot be reached, and the model is not in its cache"
    except (OSError, ValueError) as error:
        why = f"the hub cannot be reached ({type(error).__name__})"
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        why = f"the hub cannot be reached ({type(error).__name__})"
    finally:
        enable_progress_bars()
    raise CheckpointError(f"{name}: {why}.") from None
