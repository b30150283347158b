"""`python -m autotune` is the console script.

It puts the current folder first on the module search path. A user's model.py or click.py there must not be imported
instead of ours: the folder makes way before anything else is imported.
"""

import os
import sys

if not sys.flags.safe_path:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if root in sys.path[1:]:
        del sys.path[0]
    else:  # a checkout that is not installed, from its own folder
        sys.path[0] = root

from autotune.cli import main

if __name__ == "__main__":
    main()
