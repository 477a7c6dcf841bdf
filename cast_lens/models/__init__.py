"""The only room that loads a model."""

from .config import config_from_huggingface
from .identity import check_vector, fingerprint, model_name
from .load import EMBEDDED, load_model

__all__ = ["EMBEDDED", "check_vector", "config_from_huggingface", "fingerprint", "load_model", "model_name"]
