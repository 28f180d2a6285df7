"""`python -m unproject.cli` is `unproject`."""

import sys

from unproject.cli import main

sys.exit(main())
