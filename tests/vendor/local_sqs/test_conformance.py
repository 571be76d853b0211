"""The conformance table in the rings `local` and `runtime`; see conformance/.

A test's name is the situation and the response. What happens to each message stands in the row.
"""

import pytest
from local_sqs import Client

from tests.vendor.local_sqs.conformance.local import LocalRing
from tests.vendor.local_sqs.conformance.rows import table
from tests.vendor.local_sqs.conformance.runner import run

from .conftest import on_one_server

pytestmark = [pytest.mark.together, on_one_server]


@pytest.fixture(scope="module", params=["local", "runtime"])
def ring(request, server, tmp_path_factory):
    with Client(port=server.port) as client:
        client.execute("FLUSHDB")
        ring = LocalRing(client, tmp_path_factory.mktemp(request.param), request.param)
        yield ring
        ring.close()


@pytest.mark.parametrize("row", table(), ids=lambda row: row.name)
def test_row(ring, row):
    run(row, ring)
