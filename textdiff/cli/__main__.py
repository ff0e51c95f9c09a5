"""python -m textdiff.cli: the same as `textdiff`."""

import sys

from textdiff.cli import main

sys.exit(main())
