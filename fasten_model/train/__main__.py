"""`python -m fasten_model.train`."""

import sys

from fasten_model.train.command import main

if __name__ == "__main__":
    sys.exit(main())
