"""The command line as `python -m sharedq`."""

import sys

from sharedq.command_line import main

if __name__ == "__main__":
    sys.exit(main())
