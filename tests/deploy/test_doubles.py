"""The doubles that can be deployed beside a stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..baking import SCRIPTS, BakedProject, described
from .tools import run

pytestmark = pytest.mark.together

TOKEN = {"authorization": "Bearer sesame"}


@pytest.fixture
def stack(project_for: Callable[..., BakedProject]) -> dict[str, Any]:
    """The stack's template for stage dev."""
    project = project_for(example="statements", deploy_target="sam")
    program = (
        "import json; from tests.doubles.stack import template; print(json.dumps(template('dev')))"
    )
    process = run(sys.executable, "-B", "-c", program, directory=project.path)
    assert process.returncode == 0, described(process)
    made: dict[str, Any] = json.loads(process.stdout)
    return made


def test_cfn_lint_has_nothing_to_say(stack: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "doubles.json").write_text(json.dumps(stack))
    process = run(str(SCRIPTS / "cfn-lint"), "doubles.json", directory=tmp_path)
    assert process.returncode == 0, described(process)


def test_it_may_read_the_stages_token_and_write_its_own_log_alone(
    stack: dict[str, Any],
) -> None:
    (policy,) = stack["Resources"]["Role"]["Properties"]["Policies"]
    allowed = [(one["Action"], one["Resource"]) for one in policy["PolicyDocument"]["Statement"]]
    arn = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter"
    assert allowed == [
        (["logs:CreateLogStream", "logs:PutLogEvents"], {"Fn::GetAtt": ["Log", "Arn"]}),
        ("ssm:GetParameter", {"Fn::Sub": f"{arn}/statement-service/dev/customers-token"}),
    ]


def test_its_function_is_the_customers_api_with_mailboxes_that_are_nobodys(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code as it is deployed: one file, its customers in it."""
    monkeypatch.setenv("CUSTOMERS_TOKEN", "sesame")
    names: dict[str, Any] = {"__name__": "index", "__file__": "index.py"}
    exec(stack["Resources"]["Customers"]["Properties"]["Code"]["ZipFile"], names)

    def get(path: str, query: str = "", headers: dict[str, str] = TOKEN) -> tuple[int, Any]:
        event = {"rawPath": path, "rawQueryString": query, "headers": headers}
        answer = names["function"](event, None)
        return answer["statusCode"], json.loads(answer["body"])

    assert get("/customers", headers={})[0] == 401
    assert get("/customers", headers={"authorization": "Bearer guess"})[0] == 401
    status, page = get("/customers")
    assert (status, len(page["ids"]), page["next"]) == (200, 5, "c005")
    assert get("/customers", "after=c010") == (200, {"ids": ["c011", "c012"], "next": None})
    status, customer = get("/customers/c001")
    assert (status, customer["email"]) == (200, "success+c001@simulator.amazonses.com")
    status, transactions = get("/customers/c001/transactions", "month=2026-10")
    assert status == 200
    assert transactions
    assert get("/customers/nobody")[0] == 404
