"""``python -m coterie``, for launchers that start modules."""

from coterie.cli import main

main()
