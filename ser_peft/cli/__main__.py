"""``python -m ser_peft.cli``."""

from ser_peft.cli import main

main()
