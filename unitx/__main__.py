"""`python -m unitx …` is `unitx …`."""

import sys

from unitx.cli import main

sys.exit(main())
