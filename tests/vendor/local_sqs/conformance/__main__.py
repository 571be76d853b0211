"""The conformance table: list it, write its page, or run it against AWS."""

import argparse
import json
import os
import signal
import sys
from typing import NoReturn

from .page import PAGE, RUNS, page
from .rows import table
from .runner import run_all

NOTICE = """\
This runs {rows} rows against AWS, in region {region}, account {account}. It creates, all named {prefix}…:
  {lanes} × 3 SQS queues, {lanes} Lambda functions of 128 or 512 MB with an event source mapping each,
  1 IAM role (which may use these queues and logs, nothing else), log groups.
It takes about {minutes} minutes and costs a few cents (SQS and Lambda requests; nothing by the hour).
Everything is deleted at the end, also after ctrl-C. If this process is killed -9:
  python -m tests.vendor.local_sqs.conformance --delete {prefix} --region {region}
"""


def stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt  # so that SIGTERM deletes everything, too


def new_prefix() -> str:
    return f"conformance-{os.urandom(3).hex()}"


def against_aws(region: str, wanted: str, yes: bool) -> int:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from .aws import Account, AwsRing

    rows = [row for row in table() if wanted in row.name]
    prefix = new_prefix()
    lanes = len({row.arrangement for row in rows})
    try:
        who = boto3.client("sts", region_name=region).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        print(f"AWS does not know whose account this is: {error}", file=sys.stderr)
        return 2
    minutes = 1 + lanes + len(rows) // 2
    print(
        NOTICE.format(
            rows=len(rows),
            region=region,
            account=who["Account"],
            prefix=prefix,
            lanes=lanes,
            minutes=minutes,
        )
    )
    if not yes and input("Go on? [y/N] ").strip().lower() != "y":
        return 1
    signal.signal(signal.SIGTERM, stop)
    ring = AwsRing(Account(region), prefix)
    try:
        results = run_all(rows, ring)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # nothing interrupts the deletion
        ring.close()
    known = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    RUNS.write_text(json.dumps(known | results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(table()))
    failed = {name: said for name, said in results.items() if said}
    print(f"\n{len(results) - len(failed)} of {len(results)} rows as in {PAGE.name}")
    for name, said in failed.items():
        print(f"  {name}: {said}")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vendor.local_sqs.conformance")
    parser.description = __doc__
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print the table")
    what.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    what.add_argument("--aws", action="store_true", help="run it against AWS")
    what.add_argument("--delete", metavar="PREFIX", help="delete what a killed run has left")
    parser.add_argument("--region", default=os.environ.get("AWS_DEFAULT_REGION", "eu-central-1"))
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows that contain this")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments)
    if options.aws:
        return against_aws(options.region, options.rows, options.yes)
    if options.delete:
        from .aws import Account, delete_everything

        failed = delete_everything(Account(options.region), options.delete)
        print("\n".join(failed))
        return 1 if failed else 0
    if options.write:
        PAGE.write_text(page(table()))
    else:
        for row in table():
            print(f"{row.name}\n    {row.outcome}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
