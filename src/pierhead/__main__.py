"""`python -m pierhead`."""

from pierhead.cli import main

main()
