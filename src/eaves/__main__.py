"""``python -m eaves`` is the command ``eaves``."""

import sys

from eaves.cli import main

sys.exit(main())
