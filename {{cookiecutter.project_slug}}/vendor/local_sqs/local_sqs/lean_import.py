"""Imports msgspec without typing_extensions, before any other module of this package imports it.

msgspec takes `get_type_hints`, `Required` and `NotRequired` from typing_extensions where that is installed
and from typing where not. From Python 3.11 on typing's do the same for msgspec, which asks for hints with
`include_extras=True`, and typing_extensions takes longer to import than all of this package: a good part
of a poller's start. So it is hidden while msgspec is imported for the first time, and only then; whoever
imports it later gets it as ever.
"""

import _thread
import sys


def import_msgspec() -> None:
    """Does nothing when either module is there already, or when another thread, which might import
    typing_extensions at the same moment, runs."""
    if "msgspec" in sys.modules or "typing_extensions" in sys.modules or _thread._count():
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # "not to be found"
    try:
        import msgspec  # noqa: F401
    except ImportError:
        pass  # a version that cannot do without: the package's own import of it meets what is wrong
    finally:
        del sys.modules["typing_extensions"]


import_msgspec()
