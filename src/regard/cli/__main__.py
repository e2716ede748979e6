"""`python -m regard.cli`, which torchrun can start."""

from __future__ import annotations

import sys

from regard.cli import main

sys.exit(main())
