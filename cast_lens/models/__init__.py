"""The only room that loads a model and knows TransformerLens' loading API.

``load_model`` makes any decoder of a known architecture an unprocessed ``HookedTransformer`` whose logits
were compared with Hugging Face's; ``fingerprint`` and ``check_vector`` say which vectors belong to it.
"""

from .convert import config_from_huggingface
from .decoder import HookedDecoder
from .identity import check_vector, fingerprint, model_name
from .list import EMBEDDED, LoadableModel, list_models
from .load import load_huggingface, load_model

__all__ = [
    "EMBEDDED",
    "HookedDecoder",
    "LoadableModel",
    "check_vector",
    "config_from_huggingface",
    "fingerprint",
    "list_models",
    "load_huggingface",
    "load_model",
    "model_name",
]
