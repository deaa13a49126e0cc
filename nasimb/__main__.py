"""`python -m nasimb` is the `nasimb` command."""

from nasimb.cli import main

main()
