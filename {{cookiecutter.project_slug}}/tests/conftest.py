"""Options of the test run."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ring",
        choices=("local", "runtime"),
        default="local",
        help="where scenarios run: forked environments (local), or the production runtime client",
    )
