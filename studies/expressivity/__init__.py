"""What adaptive task vectors can express (arXiv 2506.03426, theorems 1 and 2), on a small frozen transformer."""
