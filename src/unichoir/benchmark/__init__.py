"""How fast models of a configuration are, with random weights that behave like trained ones."""
