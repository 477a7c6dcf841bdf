"""Studies beside the toolkit: questions of theory that need no language model."""
