"""``python -m cast_lens``: the command line, where its script is not on the path."""

from .cli import main

# Worker processes import this module again.
if __name__ == "__main__":
    main()
