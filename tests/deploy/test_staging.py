"""The staging ring: the service's own scenarios against a deployed stack, through SQS.

The stack is made from the very template that SAM deploys; the built zip runs behind the pump. The
statements example has its doubles beside it, deployed as `make doubles` does it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from moto.ses.models import ses_backends

from ..baking import BakedProject, Template, described
from .aws import ACCOUNT, REGION, Url
from .double import FunctionUrl, double, function_url
from .pump import pumping
from .stage import STACK, client, deployed, for_this_python, outputs
from .tools import run, samconfig_parameters, translated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Tried to parse .* but it's not supported by moto"),
]

# Scenarios that a stage can run whatever it is for, and one that none can.
RUN = {
    "test_a_message_is_done",
    "test_a_malformed_message_is_parked_at_once_naming_its_field",
    "test_what_is_not_even_json_is_parked_and_kept_as_it_came",
}
NOT_RUN = "test_a_job_that_keeps_failing_is_parked_with_its_error: it lets minutes pass"


def create(account: str, project: BakedProject) -> None:
    """The stack of stage dev, its code in S3 as SAM would upload it."""
    client(account, "s3").create_bucket(
        Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    archive = project.path / "build" / "lambda.zip"
    client(account, "s3").put_object(Bucket="bucket", Key="key", Body=archive.read_bytes())
    values = samconfig_parameters(project, "dev")
    template = translated(project, "dev")
    client(account, "cloudformation").create_stack(
        StackName=STACK,
        TemplateBody=json.dumps(template),
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value}
            for name, value in values.items()
            if name in template["Parameters"]
        ],
        Capabilities=["CAPABILITY_IAM"],
    )


def prepare(account: str) -> None:
    """What docs/deploy.md has a newcomer do: verify the sender, put the token where it is read."""
    client(account, "sesv2").create_email_identity(EmailIdentity="statements@example.com")
    client(account, "ssm").put_parameter(
        Type="SecureString", Name="/statement-service/dev/customers-token", Value="sesame"
    )


@contextmanager
def doubles(account: str, project: BakedProject, directory: Path) -> Iterator[FunctionUrl]:
    """`make doubles`, and its URL as that of the stage's customers API."""
    with function_url() as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Url, "address", url.address)
            process = run(
                "make", "doubles", "STAGE=dev", directory=project.path, AWS_ENDPOINT_URL=account
            )
        assert process.returncode == 0, described(process)
        told = re.search(r"the stage's customers URL, and deploy it: (\S+)", process.stdout)
        assert told is not None
        assert told[1] == outputs(account, f"{STACK}-doubles")["CustomersUrl"] == url.address
        config = project.path / "deploy" / "samconfig.toml"
        text = config.read_text("utf-8")  # stage dev is the first in it
        config.write_text(text.replace("https://customers.example.com", told[1], 1), "utf-8")
        with double(account, f"{STACK}-doubles", directory) as url.function:
            yield url


@pytest.mark.parametrize(
    ("example", "queue_type"), [("statements", "standard"), ("minimal", "fifo")]
)
def test_the_scenarios_pass_in_a_stage(
    example: str, queue_type: str, account: str, template: Template, tmp_path: Path
) -> None:
    process = template.cookiecutter(tmp_path, example=example, queue_type=queue_type)
    assert process.returncode == 0, described(process)
    project = BakedProject(tmp_path / "statement-service")
    for_this_python(project)
    process = run("make", "build", directory=project.path)
    assert process.returncode == 0, described(process)

    with ExitStack() as running:
        url = None
        if example == "statements":
            prepare(account)
            url = running.enter_context(doubles(account, project, tmp_path / "double"))
        create(account, project)
        queue = outputs(account)["WorkQueueUrl"]
        worker = running.enter_context(deployed(account, project, "WorkerFunction"))
        running.enter_context(pumping(client(account, "sqs"), queue, worker))
        process = run(
            *("make", "test-staging", "STAGE=dev", "PYTEST_ADDOPTS=-v"),
            directory=project.path,
            AWS_ENDPOINT_URL=account,
            STAGING_PAUSE="0.1",
        )

    assert process.returncode == 0, described(process)
    said, _, listed = process.stdout.partition("scenarios that the staging ring did not run")
    assert f"Tests stack {STACK} (" in said
    passed = set(re.findall(r"::(\w+) PASSED", said))
    assert passed >= RUN
    assert NOT_RUN in listed
    # Every scenario is in one list or the other.
    everything = set(re.findall(r"::(\w+) (?:PASSED|SKIPPED)", said))
    assert everything == passed | set(re.findall(r"(?m)^(\w+): ", listed))
    if url is not None:
        assert "test_a_rejected_statement_is_parked_at_once" in passed
        assert "real customers" not in listed
        assert "/customers/nobody" in url.asked
        mails = ses_backends[ACCOUNT][REGION].sent_messages
        to = {address for mail in mails for address in mail.destinations}
        assert to
        assert all(re.fullmatch(r"success\+c\d+@simulator\.amazonses\.com", each) for each in to)
