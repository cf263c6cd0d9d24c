"""``python -m portside.daemon OPTIONS``: the daemon."""

import sys

from portside.daemon.main import main

sys.exit(main())
