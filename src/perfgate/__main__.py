"""``python -m perfgate``: the program, of whichever environment the interpreter belongs to."""

import sys

from perfgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
