"""What happens to a message, whatever happens to the service."""

from typing import Any

import pytest
from local_sqs import advance_clock

from .. import example
from .conftest import with_faults, without_handler
from .rings import needs
from .service import LocalService, Service, wait_until

MAX_RECEIVE_COUNT = 5
LATER = 1000  # seconds; as in tests/doubles/faults.py


@needs(*example.JOBS_NEED)
def test_a_message_is_done(service: Service) -> None:
    service.send(example.message())
    service.wait_idle()
    assert example.all_done(service, 1)
    assert service.records() == []


def test_a_malformed_message_is_parked_at_once_naming_its_field(service: Service) -> None:
    service.send(example.malformed())
    record = service.wait_record()
    service.wait_idle()
    assert (record.reason, record.attempts) == ("malformed", 1)
    assert f"$.{example.BAD_FIELD}" in record.error


def test_what_is_not_even_json_is_parked_and_kept_as_it_came(service: Service) -> None:
    service.send("{ this is not JSON")
    record = service.wait_record()
    service.wait_idle()
    assert (record.reason, record.body) == ("malformed", "{ this is not JSON")


@needs("clock")
def test_an_unknown_type_uses_its_deliveries_first(service: LocalService) -> None:
    service.send({"type": "of_next_version"})
    for delivery in range(1, MAX_RECEIVE_COUNT):
        service.wait_returned(delivery)
        service.pass_visibility_timeout()
    record = service.wait_record()
    service.wait_idle()
    assert (record.reason, record.attempts) == ("unknown_type", MAX_RECEIVE_COUNT)


@needs("clock")
def test_a_failing_job_is_tried_again_and_succeeds(service: LocalService) -> None:
    with example.failing_job(service):
        service.send(example.message())
        service.wait_returned(1)
    service.pass_visibility_timeout()
    service.wait_idle()
    assert example.all_done(service, 1)
    assert service.records() == []


@with_faults
def test_a_job_chooses_when_it_is_tried_again(service: LocalService) -> None:
    with service.fault("later"):
        service.send(example.message())
        service.wait_worker_says('"FailedRecords":1')  # the end of the batch
    service.group["worker"].pause()  # so that nobody takes what may be there too early
    service.pass_visibility_timeout()
    stats = service.queue.stats()
    assert (stats.ready, stats.in_flight) == (0, 1)
    advance_clock(service.queue.client, LATER)
    assert service.queue.stats().ready == 1
    service.group["worker"].resume()
    service.wait_idle()
    assert example.all_done(service, 1)


@needs("clock")
def test_a_job_that_keeps_failing_is_parked_with_its_error(service: LocalService) -> None:
    with example.failing_job(service):
        service.send(example.message())
        for delivery in range(1, MAX_RECEIVE_COUNT):
            service.wait_returned(delivery)
            service.pass_visibility_timeout()
        record = service.wait_record()
    service.wait_idle()
    assert (record.reason, record.attempts) == ("retries_exhausted", MAX_RECEIVE_COUNT)
    assert record.traceback is not None
    assert record.error.split(":")[0] in record.traceback
    assert service.dead_letter_queue.stats().ready == 0


@with_faults
def test_crashes_exhausted_go_to_the_dead_letter_queue(service: LocalService) -> None:
    service.stop_dispatcher()
    with service.fault("crash"):
        service.send(example.message())
        for delivery in range(1, MAX_RECEIVE_COUNT + 1):
            service.wait_fault_met(delivery)
            service.pass_visibility_timeout()
        wait_until(lambda: service.dead_letter_queue.stats().ready == 1, "the dead letter")
    assert service.backlog() == 0
    assert service.records() == []


@pytest.mark.service(max_receive_count=2)
@with_faults
def test_batch_mates_of_what_crashes_go_to_the_dead_letter_queue_too(service: LocalService) -> None:
    service.stop_dispatcher()
    with service.fault("poison"):
        service.send_together(example.message(0), example.message(1))
        for delivery in (1, 2):
            service.wait_worker_says("Runtime exited", delivery)
            service.pass_visibility_timeout()
        wait_until(lambda: service.dead_letter_queue.stats().ready == 2, "two dead letters")
    assert service.records() == []


@pytest.mark.service(max_receive_count=2)
@without_handler
def test_a_function_that_cannot_start_loses_healthy_messages(service: LocalService) -> None:
    """To the dead-letter queue, as a throttled one does."""
    service.stop_dispatcher()
    service.send(example.message())
    for delivery in (1, 2):
        service.wait_worker_says("1 messages return after their visibility timeout", delivery)
        service.pass_visibility_timeout()
    wait_until(lambda: service.dead_letter_queue.stats().ready == 1, "the dead letter")
    assert example.effects(service) == []


@with_faults
def test_a_worker_killed_in_the_middle_loses_nothing(service: LocalService) -> None:
    with service.fault("hang"):
        service.send(example.message())
        service.wait_fault_met()
        service.kill_environments()
    service.pass_visibility_timeout()
    service.wait_idle()
    assert example.all_done(service, 1)


@with_faults
def test_a_killed_poller_loses_nothing(service: LocalService) -> None:
    with service.fault("hang"):
        service.send(example.message())
        service.wait_fault_met()
        service.group["worker"].kill()
    service.pass_visibility_timeout()
    service.wait_idle()
    assert example.all_done(service, 1)


@with_faults
def test_the_function_timeout_kills_and_the_message_comes_back(service: LocalService) -> None:
    with service.fault("hang"):
        service.send(example.message())
        service.wait_fault_met()
        stuck = service.environments()
        seconds = service.settings["function"]["timeout"]
        wait_until(
            lambda: f"Task timed out after {seconds:.2f} seconds" in service.group["worker"].log(),
            "Lambda's words for a timeout",
        )
    assert stuck != service.environments()
    service.pass_visibility_timeout()
    service.wait_idle()
    assert example.all_done(service, 1)


@needs("clock")
@pytest.mark.service(reserved_concurrency=0)
def test_a_throttled_function_loses_healthy_messages(service: LocalService) -> None:
    """To the dead-letter queue: what reserved concurrency does where deploy/ set no maximum."""
    service.stop_dispatcher()
    service.send(example.message())
    for _ in range(MAX_RECEIVE_COUNT):
        service.wait_in_flight(1)
        service.pass_visibility_timeout()
    wait_until(lambda: service.dead_letter_queue.stats().ready == 1, "the dead letter")
    assert example.effects(service) == []


{% if cookiecutter.queue_type == 'fifo' -%}
@needs("clock")
def test_duplicates_have_no_second_effect(service: LocalService)
{%- else -%}
@needs(*example.JOBS_NEED)
def test_duplicates_have_no_second_effect(service: Service)
{%- endif %} -> None:
    service.send(example.message())
    service.wait_idle()
    once = example.effects(service)
{%- if cookiecutter.queue_type == 'fifo' %}
    service.pass_deduplication_interval()
    service.send(example.message())
    service.wait_idle()
    service.pass_deduplication_interval()
    service.send(example.message())
{%- else %}
    service.send(example.message())
    service.send(example.message())
{%- endif %}
    service.wait_idle()
    assert example.effects(service) == once
    assert service.records() == []


@needs("queue faults", "clock")
def test_a_lost_deletion_has_no_second_effect(service: LocalService) -> None:
    service.break_queue(lose_delete=1)
    service.send(example.message())
    wait_until(lambda: example.all_done(service, 1), "the job to be done")
    once = example.effects(service)
    service.wait_in_flight(1)
    service.pass_visibility_timeout()
    service.wait_idle()
    assert example.effects(service) == once

{% if cookiecutter.queue_type == 'standard' %}
@needs("queue faults")
def test_repeated_deliveries_in_any_order_have_no_second_effect(service: LocalService) -> None:
    service.break_queue(duplicate=1.0, shuffle=True)
    for number in range(20):
        service.send(example.message(number))
    service.wait_idle()
    assert example.all_done(service, 20)
    assert service.records() == []

{% endif %}
def effects_before_and_after_a_redrive(service: LocalService) -> tuple[list[Any], list[Any]]:
    """Of a message that was done, whose answers were lost until it was a dead letter."""
    service.stop_dispatcher()
    with service.fault("crash-after"):
        sent = service.send(example.message())
        for delivery in range(1, MAX_RECEIVE_COUNT + 1):
            service.wait_fault_met(delivery)
            # The job itself is not over when its delivery meets the switch.
            service.wait_worker_says("Runtime exited", delivery)
            service.pass_visibility_timeout()
        wait_until(lambda: service.dead_letter_queue.stats().ready == 1, "the dead letter")
    before = example.effects(service)
    assert len(before) == 1
    with service.fault("watch"):
        assert service.dead_letter_queue.redrive() == 1
        service.wait_fault_met(MAX_RECEIVE_COUNT + 1)
        service.wait_idle()
    *deliveries, redriven = service.met_fault()
    assert deliveries == [sent] * MAX_RECEIVE_COUNT
    assert redriven != sent
    return before, example.effects(service)


@with_faults
def test_a_redriven_message_has_a_new_id_and_no_second_effect(service: LocalService) -> None:
    """The ledger goes by business id."""
    before, after = effects_before_and_after_a_redrive(service)
    assert after == before


@pytest.mark.service(handler="tests.doubles.by_message_id.worker")
def test_by_message_id_a_redriven_message_would_have_a_second_effect(
    service: LocalService,
) -> None:
    """The counter-example: with SQS's message id for a key, a redrive is another piece of work."""
    before, after = effects_before_and_after_a_redrive(service)
    assert after != before


@pytest.mark.service(concurrency=4)
def test_200_messages_over_4_environments(service: LocalService) -> None:
    for number in range(200):
        service.send(example.message(number){% if cookiecutter.queue_type == 'fifo' %}, group=f"g{number % 12}"{% endif %})
    service.wait_idle()
    assert example.all_done(service, 200)
    assert service.records() == []
