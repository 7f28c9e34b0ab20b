"""`python -m conviction` is the command."""

from conviction.cli import main

if __name__ == "__main__":
    main()
