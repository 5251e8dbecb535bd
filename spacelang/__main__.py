"""`python -m spacelang` is the command `spacelang`."""

from spacelang.cli.main import main

if __name__ == "__main__":
    main()
