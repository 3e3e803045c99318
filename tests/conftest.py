"""No test writes into the user's cache of measured kernels, nor depends on what is there."""

import os

os.environ["MEST_CACHE"] = ""  # nothing is kept; before anything is imported, so that child processes have it too
