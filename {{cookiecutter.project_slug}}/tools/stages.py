"""Which stages there are, for all that is done to one."""

import re
import sys

from .target import STAGES_IN, must_agree, stages

# It is part of the functions' names, for which Lambda has 64 characters; a service's has up to 40.
NAME = re.compile("[a-z][a-z0-9-]{0,11}")


def must_exist(stage: str) -> None:
    """Raises SystemExit for a stage that deploy/ does not know, or of which it says what is another's.

    A mistyped name would make a new deployment of its own, or miss the one that was meant.
    """
    if stage not in (known := stages()):
        sys.exit(f"There is no stage {stage}, only {', '.join(known)}. Add one in {STAGES_IN}.")
    if not NAME.fullmatch(stage):
        sys.exit(f"{stage} is no name for a stage: up to 12 of a-z, 0-9 and -, a letter first.")
    must_agree(stage)
