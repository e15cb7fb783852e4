"""`python -m rft`: the same as the command `rft`."""

import sys

from rft.cli import main

if __name__ == "__main__":
    sys.exit(main())
