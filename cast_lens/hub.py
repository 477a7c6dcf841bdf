"""Whether the Hugging Face hub can be asked for a model, found out before anything heavy is imported.

``huggingface_hub`` tries six times within 25 seconds where the hub does not answer, and says so each time; one attempt
to connect, and a look into its cache, tell as much.
"""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

# Seconds for the hub to accept a connection.
PATIENCE = 5.0
ADVICE = (
    "check the spelling (owner/name), the network and HF_HUB_OFFLINE; a gated model needs its licence "
    "accepted and `hf auth login`; or give a local folder"
)


def unasked() -> str:
    """Why the hub cannot be asked; empty where it can, or where a proxy has to be tried."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    if getproxies() or address.hostname is None:
        return ""
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=PATIENCE).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error.strerror or error})"
    return ""


def in_cache(name: str) -> bool:
    """Whether anything of a model is in the hub's cache."""
    return (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def check_hub_name(name: str) -> None:
    """Refuse the name of a model that is neither in the cache nor on a hub that can be asked.

    Raises:
        ValueError: naming the reason and the way out.
    """
    if not in_cache(name) and (reason := unasked()):
        raise ValueError(f"cannot read model {name!r}: it is not in the cache, and {reason}. What to do: {ADVICE}")
