"""`python -m helpers COMMAND`: see `helpers/course/cli.py`; this only checks the Python."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "The course needs Python 3.11 or newer; this is Python %d.%d (%s)."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

from helpers.course import cli

sys.exit(cli.main(sys.argv[1:]))
