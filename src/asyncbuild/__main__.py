"""``python -m asyncbuild``."""

import sys

from asyncbuild.cli import main

sys.exit(main())
