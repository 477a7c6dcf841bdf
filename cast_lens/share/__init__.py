"""Out of the notebook and back: export, import, the Hub, evaluation harnesses and experiment trackers.

``export`` writes a chosen intervention for another engine and refuses what that engine cannot do; ``import_vector``
reads vectors of other tools and never executes what a file says. ``lm_eval`` and ``inspect_ai`` let other harnesses
evaluate a steered model; ``tracking`` sends finished rows to an experiment tracker.
"""

from .export import FORMATS, Format, export
from .imports import import_intervention, import_vector, read_intervention

__all__ = ["FORMATS", "Format", "export", "import_intervention", "import_vector", "read_intervention"]
