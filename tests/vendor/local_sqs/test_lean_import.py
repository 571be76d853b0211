"""What importing the package costs whom."""

import subprocess
import sys
from pathlib import Path

import local_sqs
import pytest

pytest.importorskip("typing_extensions")

VENDOR = Path(local_sqs.__file__).parents[1]


def _python(code):
    """Run code in an interpreter of its own, which sees the package."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(VENDOR)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_package_does_not_import_typing_extensions():
    _python("import local_sqs.mapping; assert 'typing_extensions' not in sys.modules")


def test_typing_extensions_can_be_imported_afterwards():
    _python("import local_sqs, typing_extensions; assert typing_extensions.get_type_hints")


def test_an_import_made_before_stays():
    _python(
        "import typing_extensions as before, local_sqs\n"
        "assert sys.modules['typing_extensions'] is before"
    )


def test_nothing_is_hidden_while_another_thread_runs():
    _python(
        "import threading\n"
        "end = threading.Event()\n"
        "thread = threading.Thread(target=end.wait)\n"
        "thread.start()\n"
        "import local_sqs\n"
        "end.set()\n"
        "thread.join()\n"
        "assert 'typing_extensions' in sys.modules"
    )


@pytest.mark.parametrize("module", ["typing", "typing_extensions"])
def test_msgspec_reads_types_of_either_module_as_before(module):
    _python(
        "import local_sqs, msgspec\n"
        f"from {module} import Annotated, NotRequired, Required, TypedDict\n"
        "class Item(TypedDict, total=False):\n"
        "    name: Required[Annotated[str, msgspec.Meta(min_length=1)]]\n"
        "    size: NotRequired[int]\n"
        "assert msgspec.json.decode(b'{\"name\": \"a\"}', type=Item) == {'name': 'a'}\n"
        'for wrong in (b\'{}\', b\'{"name": ""}\', b\'{"name": "a", "size": "1"}\'):\n'
        "    try:\n"
        "        msgspec.json.decode(wrong, type=Item)\n"
        "    except msgspec.ValidationError:\n"
        "        continue\n"
        "    raise SystemExit(f'accepted: {wrong}')"
    )
