"""`python -m sparkscore`: the command line, where no console script is installed."""

from sparkscore.cli import main

if __name__ == "__main__":
    main()
