"""`python -m vqtk`: the command line."""

from vqtk.cli import main

if __name__ == "__main__":
    main()
