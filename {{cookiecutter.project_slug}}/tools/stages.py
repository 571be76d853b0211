"""Which stages there are, for all that is done to one."""

import sys

from .target import STAGES_IN, must_agree, stages


def must_exist(stage: str) -> None:
    """Raises SystemExit for a stage that deploy/ does not know, or of which it says what is another's.

    A mistyped name would make a new deployment of its own, or miss the one that was meant.
    """
    if stage not in (known := stages()):
        sys.exit(f"There is no stage {stage}, only {', '.join(known)}. Add one in {STAGES_IN}.")
    must_agree(stage)
