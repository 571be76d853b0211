"""What is deployed is what was tested: with ``--zip``, the zip's own code runs the scenarios."""

from tools.build import LOCAL_ONLY

from .. import example
from .package import Package
from .service import LocalService

SHIPS = ("{{ cookiecutter.__package_name }}", "lambda_shim", "msgspec")


def test_core_shim_and_lambda_shim_come_out_of_the_zip(
    service: LocalService, package: Package
) -> None:
    service.send(example.message())
    service.wait_idle()
    loaded = {
        name: path
        for name, path in service.loaded_modules().items()
        if name.split(".")[0] in SHIPS and path is not None
    }
    assert {f"{SHIPS[0]}.core.jobs", f"{SHIPS[0]}.shims.aws_lambda", "lambda_shim.batch"} <= set(
        loaded
    )
    elsewhere = {name: path for name, path in loaded.items() if str(package.code) not in path}
    assert elsewhere == {
        f"{SHIPS[0]}.adapters.redis_queue": str(package.overlay / "redis_queue.py")
    }


def test_nothing_that_only_runs_locally_is_in_the_zip(package: Package) -> None:
    names = {path.relative_to(package.code).as_posix() for path in package.code.rglob("*")}
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"procgroup", "local_sqs", "blueprints", "tests", "tools", "vendor"}
    for place in (name.split("/") for name in names):
        assert len(place) not in (2, 3) or place[-1] not in LOCAL_ONLY.get(place[-2], ()), place
