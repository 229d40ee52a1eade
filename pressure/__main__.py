"""`python -m pressure` is the program `pressure`."""

from pressure.cli import main

if __name__ == "__main__":
    main()
