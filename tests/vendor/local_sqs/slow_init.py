"""A module whose import takes too long."""

import time

time.sleep(60)
