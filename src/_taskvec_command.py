"""The console script `taskvec`: beside the package, so that it answers Ctrl-C before anything of it is imported."""

import os
import signal


def main() -> None:
    """Run the command line; see `taskvec.cli`."""
    before = signal.signal(signal.SIGINT, _leave)
    from taskvec.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _leave(*_: object) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(130)
