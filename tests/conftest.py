"""What holds for every test: no user's cache of measured kernels, no tuning logs, no waiting for cores that other work
slows, and a Ctrl-C that arrives."""

import os
import signal

os.environ["MEST_CACHE"] = ""  # nothing is kept; before anything is imported, so that child processes have it too
os.environ["MEST_TUNING_LOGS"] = ""  # and what is tuned here does not decide which kernels are tested
os.environ["MEST_WAIT_FOR_CALM"] = "0"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
