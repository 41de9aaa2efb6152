"""`python -m unichoir`, which torchrun also starts."""

from unichoir.cli import main

if __name__ == "__main__":
    main()
