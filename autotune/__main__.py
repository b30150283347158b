"""`python -m autotune` is the console script."""

from autotune.cli import main

if __name__ == "__main__":
    main()
