"""``python -m vitray.cli``: the command line where no ``vitray`` script is on the path."""

from vitray.cli import main

if __name__ == "__main__":
    main()
