"""`python -m voder`, and what torchrun starts."""

import sys

from voder.cli import main

sys.exit(main())
