"""What a person does about messages that failed, by the service's own command."""

import json
from typing import Any

import pytest

from {{ cookiecutter.__package_name }}.shims import dead_letters_cli

from .. import example
{% if cookiecutter.overflow == 'none' -%}
from .conftest import with_faults
{% endif -%}
from .rings import needs
from .service import LocalService, wait_until

pytestmark = needs("processes")

Capture = pytest.CaptureFixture[str]


def command(service: LocalService, *arguments: str) -> int:
    return dead_letters_cli.main([*arguments, "--process-group", service.group.id])


def listed(service: LocalService, capsys: Capture, *filters: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert command(service, "ls", "--json", *filters) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.service(max_receive_count=1)
def test_a_parked_message_is_looked_at_and_redriven(service: LocalService, capsys: Capture) -> None:
    with example.failing_job(service):
        service.send(example.message())
        record = service.wait_record()
    service.wait_idle()

    assert command(service, "ls") == 0
    table = capsys.readouterr().out
    assert "LAST ERROR" in table
    assert f"{record.business_id}" in table
    assert command(service, "show", record.key) == 0
    shown = capsys.readouterr().out
    assert "retries_exhausted" in shown
    assert "Traceback" in shown

    assert command(service, "redrive", "--type", example.TYPE, "--dry-run") == 0
    assert "1 would be redriven" in capsys.readouterr().out
    assert command(service, "redrive", "--type", example.TYPE, "--rate", "100") == 0
    assert "1 redriven" in capsys.readouterr().out
    wait_until(lambda: example.all_done(service, 1), "the job to be done")
    service.wait_idle()
    assert listed(service, capsys) == []


{% if cookiecutter.overflow == 'none' -%}
@pytest.mark.service(max_receive_count=2)
@with_faults
def test_what_sqs_gives_up_is_put_on_record_and_redriven(
    service: LocalService, capsys: Capture
) -> None:
    with service.fault("crash"):
        sent = service.send(example.message(){% if cookiecutter.queue_type == 'fifo' %}, group="g7"{% endif %})
        for delivery in (1, 2):
            service.wait_fault_met(delivery)
            service.pass_visibility_timeout()
        record = service.wait_record()
    assert (record.message_id, record.reason, record.attempts) == (sent, "dead_lettered", 2)
{%- if cookiecutter.queue_type == 'fifo' %}
    assert record.attributes["MessageGroupId"] == "g7"
{%- endif %}
    wait_until(lambda: service.dead_letter_queue.stats().in_flight == 0, "it to leave its queue")
    (found,) = listed(service, capsys)
    assert found["business_id"]  # though nobody had decoded it
    assert listed(service, capsys, "--business-id", found["business_id"]) == [found]

    with pytest.raises(SystemExit):
        command(service, "redrive", "--runner", record.key)
    assert "no runner" in capsys.readouterr().err
    assert command(service, "redrive", record.key) == 0
    wait_until(lambda: example.all_done(service, 1), "the job to be done")
    service.wait_idle()
    assert listed(service, capsys) == []


{% endif -%}
{% if cookiecutter.queue_type == 'fifo' -%}
def test_a_groups_messages_are_redriven_in_their_order(service: LocalService) -> None:
    bodies = [f"{number} is not JSON" for number in range(6)]
    sent = {service.send(body, group="g") for body in bodies}
    wait_until(lambda: len(service.records()) == 6, "six records")
    assert command(service, "redrive", "--all") == 0

    def parked_anew() -> bool:
        records = service.records()
        return len(records) == 6 and sent.isdisjoint(record.message_id for record in records)

    wait_until(parked_anew, "six other records")
    again = sorted(service.records(), key=lambda record: int(record.attributes["SequenceNumber"]))
    assert [record.body for record in again] == bodies


{% endif -%}
def test_filters_choose_and_purge_removes(service: LocalService, capsys: Capture) -> None:
    service.send("{ this is not JSON")
    service.send(example.malformed())
    wait_until(lambda: len(service.records()) == 2, "two records")
    (found,) = listed(service, capsys, "--error", example.BAD_FIELD)
    assert found["reason"] == "malformed"
    assert listed(service, capsys, "--reason", "rejected") == []
    assert listed(service, capsys, "--older-than", "1h") == []
    with pytest.raises(SystemExit):  # neither a filter nor --all
        command(service, "purge")
    assert command(service, "purge", found["message_id"]) == 0
    assert len(listed(service, capsys)) == 1
    assert command(service, "purge", "--all") == 0
    assert service.records() == []


def test_where_no_service_runs_the_command_says_so(capsys: Capture) -> None:
    assert dead_letters_cli.main(["ls", "--process-group", "nothing"]) == 1
    assert "make run" in capsys.readouterr().err
