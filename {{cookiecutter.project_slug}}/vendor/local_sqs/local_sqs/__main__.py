"""`python -m local_sqs [--debug] SETTINGS.json`: run an event source mapping until ctrl-C."""

import sys

from . import SettingsError, load_settings, run


def main(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    paths = [argument for argument in arguments if argument != "--debug"]
    if len(paths) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        run(load_settings(paths[0]), debug=debug, on_ready=lambda: print("ready", flush=True))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
