"""The staging ring: the service's own scenarios against a deployed stack, through SQS.

The stack is made from the very template that SAM deploys; the built zip runs behind the pump.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ..baking import BakedProject, Template, described
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


@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_the_scenarios_pass_in_a_stage(
    queue_type: str, account: str, template: Template, tmp_path: Path
) -> None:
    process = template.cookiecutter(tmp_path, example="minimal", queue_type=queue_type)
    assert process.returncode == 0, described(process)
    project = BakedProject(tmp_path / "statement-service")
    for_this_python(project)
    process = run("make", "build", directory=project.path)
    assert process.returncode == 0, described(process)
    create(account, project)

    queue = outputs(account)["WorkQueueUrl"]
    with (
        deployed(account, project, "WorkerFunction") as worker,
        pumping(client(account, "sqs"), queue, worker),
    ):
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
