"""The console script `taskvec`: beside the package, so that it answers Ctrl-C before anything of it is imported."""

import atexit
import gc
import os
import signal


def main() -> None:
    """Run the command line; see `taskvec.cli`."""
    gc.set_threshold(100_000, 50, 100)  # imports make a million objects, none of them garbage
    atexit.register(gc.freeze)  # nor are those that are left at the end
    before = signal.signal(signal.SIGINT, _leave)
    from taskvec.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _leave(*_: object) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(130)
