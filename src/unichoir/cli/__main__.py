"""`python -m unichoir.cli`."""

from unichoir.cli import main

if __name__ == "__main__":
    main()
