"""`python -m rapipe` is `rapipe`."""

from rapipe.cli import main

if __name__ == "__main__":
    main()
