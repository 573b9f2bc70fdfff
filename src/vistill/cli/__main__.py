"""`python -m vistill.cli`."""

import sys

from vistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
