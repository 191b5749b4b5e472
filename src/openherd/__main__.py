"""`python -m openherd`."""

import sys

from openherd.cli import main

sys.exit(main())
