"""``python -m lightipn``: the same as the command ``lightipn``."""

from lightipn.cli.main import main

if __name__ == "__main__":
    main()
