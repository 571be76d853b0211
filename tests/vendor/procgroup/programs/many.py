"""Launch many groups at once, say what they consist of, and stop them when told."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from procgroup import ProcessGroup

blueprint, supervisor, number = sys.argv[1], sys.argv[2], int(sys.argv[3])


def launch(_: int) -> ProcessGroup:
    return ProcessGroup.launch(blueprint, supervisor=supervisor, timeout=60.0)


with ThreadPoolExecutor(4) as threads:
    groups = list(threads.map(launch, range(number)))
    roles = [role for group in groups for role in group.all_roles()]
    facts = {
        "pids": [role.pid for role in roles],
        "ports": [port for role in roles for port in role.ports.values()],
        "states": [role.state for role in roles],
    }
    print(json.dumps(facts), flush=True)
    sys.stdin.read()
    list(threads.map(ProcessGroup.stop, groups))
