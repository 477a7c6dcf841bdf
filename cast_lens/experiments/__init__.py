"""One file an experiment: a frozen configuration in, tidy frames out, each finished piece on disk."""

from .config import RunConfig, make_config, read_toml
from .run import run

__all__ = ["RunConfig", "make_config", "read_toml", "run"]
