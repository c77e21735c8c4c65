"""`python -m freshet` is `freshet`."""

from freshet.commands.cli import main

main()
