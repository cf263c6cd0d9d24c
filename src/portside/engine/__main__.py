"""``python -m portside.engine OPTIONS``: the daemon."""

import sys

from portside.engine.daemon import main

sys.exit(main())
