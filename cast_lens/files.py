"""Files that are whole or absent, and that notice damage: each holds a checksum of what was written.

Whatever is read again when work goes on is written here: tensors as safetensors, frames as parquet, settings as JSON.
A file is written under a temporary name, forced to disk and renamed. When it is read, a checksum that does not agree
raises ``DamagedFile`` with the name of the file and the way out. Files without a checksum, of other tools or of earlier
versions, are read as they are.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "cast_lens/1"
_CHECKSUM = "sha256"
_PARQUET_KEY = b"cast_lens.sha256"
_UNKNOWN = b"0" * 64
# ``.NAME.PROCESS-RANDOM``, as ``atomic_write`` names them.
_TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}")
# A live process with that number may be another one: nothing is written for so long.
_LONGEST_WRITE = 3600.0
# What is wrong with the disk, not with what was to be written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


class DamagedFile(ValueError):
    """A file does not hold what was written to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


def damaged(path: Path, why: object, *, then: str = "the same command makes it again") -> DamagedFile:
    """The error for a damaged file, with the way out."""
    return DamagedFile(f"{path} is damaged ({why}); delete it, {then}")


def disk_failed(error: BaseException) -> bool:
    """Whether an error comes from a full, read-only or broken disk."""
    return isinstance(error, OSError) and error.errno in _DISK


def atomic_write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all: to a temporary name beside it, forced to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        # Opened plainly: a file of ``tempfile`` could be read by its owner alone, and so could the result.
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            # Renamed before its bytes are on disk, a file can be empty after a power failure.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _force_names(path.parent)
    return path


def _force_names(folder: Path) -> None:
    """Force the names in a folder to disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no such thing; the file itself is whole in any case.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise
    finally:
        os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that ``atomic_write`` had not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder and below it.

    Call it while no other process writes there. Files of a live process are kept for an hour, in case it is the writer.
    """
    for path in folder.rglob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and path.is_file() and _abandoned(path, int(found[1])):
            path.unlink(missing_ok=True)


def _abandoned(path: Path, process: int) -> bool:
    # In a container every start may have the same number: what bears our own is of an earlier life.
    if process == os.getpid() or time.time() - path.stat().st_mtime > _LONGEST_WRITE:
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def write_json(path: Path, value: Any) -> Path:
    """Write JSON; a mapping gets a key with its checksum."""
    if isinstance(value, dict):
        value = {**value, _CHECKSUM: _digest_json(value)}
    return atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_json(path: Path, *, then: str = "the same command makes it again") -> Any:
    """Read what ``write_json`` wrote, without the checksum; None when there is no such file.

    Args:
        path: path of the file.
        then: what happens after a damaged file was deleted, for the message.

    Raises:
        DamagedFile: when it is not JSON, or the checksum does not agree.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no valid JSON: {error}", then=then) from None
    if isinstance(value, dict) and value:
        # The last entry, whatever its name reads now: a flipped bit may have hit it.
        name, written = value.popitem()
        if not isinstance(written, str) or not re.fullmatch(r"[0-9a-f]{64}", written):
            value[name] = written
            if name == _CHECKSUM:
                raise damaged(path, "its checksum cannot be read", then=then)
        elif name != _CHECKSUM or written != _digest_json(value):
            raise damaged(path, "its checksum does not agree", then=then)
    return value


def _digest_json(value: dict[str, Any]) -> str:
    # As it will be read back: tuples are lists then, numbers as keys are text.
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """Write a frame as parquet, whole or not at all; without its index, with a checksum in the footer."""
    return atomic_write(path, _parquet(frame))


def _parquet(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table, buffer = pa.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    with parquet.ParquetWriter(buffer, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_PARQUET_KEY.decode(): _UNKNOWN.decode()})
    data = buffer.getvalue()
    start = _checksum_in(data)
    return data[:start] + _digest_parquet(data, start) + data[start + len(_UNKNOWN) :]


def read_frame(path: Path) -> pd.DataFrame:
    """Read what ``write_frame`` wrote, or any other parquet file.

    Raises:
        DamagedFile: when it is not parquet, or the checksum does not agree.
    """
    import pandas as pd
    import pyarrow as pa

    data = path.read_bytes()
    start = _checksum_in(data)
    if start and data[start : start + len(_UNKNOWN)] != _digest_parquet(data, start):
        raise damaged(path, "its checksum does not agree")
    try:
        return pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, f"no valid parquet: {str(error).splitlines()[0]}") from None


def _checksum_in(data: bytes) -> int:
    """Where the checksum of a parquet file begins; 0 without one."""
    key = data.rfind(_PARQUET_KEY)
    # Key and value are two strings of one entry: a field header and a length stand between them.
    return key + len(_PARQUET_KEY) + 2 if key >= 0 else 0


def _digest_parquet(data: bytes, start: int) -> bytes:
    digest = hashlib.sha256(data[:start])
    digest.update(_UNKNOWN)
    digest.update(data[start + len(_UNKNOWN) :])
    return digest.hexdigest().encode()


def save_tensors(path: Path, tensors: dict[str, Tensor], *, kind: str, about: dict[str, Any]) -> Path:
    """Write tensors and what is to be known about them to one safetensors file.

    Args:
        path: path of the file; folders are made as needed.
        tensors: by name.
        kind: what the file holds, asked for again by ``load_tensors``.
        about: anything that JSON can hold.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, and the two sides of a difference often do.
    whole = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    described = json.dumps({"kind": kind, **about})
    metadata = {"format": FORMAT, "about": described, _CHECKSUM: _digest_tensors(whole, described)}
    return atomic_write(path, save(whole, metadata=metadata))


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: the tensors, and what is known about them.

    Raises:
        DamagedFile: when it cannot be read, or the checksum does not agree.
        ValueError: when there is no such file, or it is of another tool, kind or format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a file written by {kind}.save")
    then = "and make it again or fetch it again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = metadata.get("about", "{}")
        about = json.loads(described)
    except (SafetensorError, ValueError) as error:
        why = f"not a readable safetensors file: {error}"
        raise damaged(path, why, then=then) from error
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _digest_tensors(tensors, described):
        raise damaged(path, "its checksum does not agree", then=then)
    if not isinstance(about, dict) or about.get("kind") != kind:
        held = about.get("kind") if isinstance(about, dict) else None
        raise ValueError(f"{path} holds {held or 'no cast_lens object'}, not a {kind}")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "read it with the version of cast_lens that wrote it"
        )
    return tensors, about


def _digest_tensors(tensors: dict[str, Tensor], described: str) -> str:
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
