"""The console command `taskvec`: one file a verb, found by its name and imported when it is called."""

from taskvec.cli._app import app as app
from taskvec.cli._app import main as main
