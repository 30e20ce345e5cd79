"""`python -m gankern`."""

import sys

from gankern.cli import main

sys.exit(main())
