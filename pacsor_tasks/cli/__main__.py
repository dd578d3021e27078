"""`python -m pacsor_tasks.cli` is `pacsor`."""

from pacsor_tasks.cli import main

main()
