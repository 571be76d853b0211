"""Launch a group, print what it consists of, wait to be killed."""

import json
import os
import signal
import sys

from procgroup import ProcessGroup, processes

blueprint, supervisor, variables = sys.argv[1:]
group = ProcessGroup.launch(blueprint, json.loads(variables), supervisor=supervisor)
document = json.loads(group.file.read_text())
keeper = document["keeper"]["pid"]
facts = {
    "id": group.id,
    "directory": str(group.directory),
    "keeper": keeper,
    "warden": processes.parents()[keeper],
    "pids": {role.label: role.pid for role in group.all_roles()},
    "ports": [port for role in group.all_roles() for port in role.ports.values()],
    "all": processes.descendants(os.getpid()),
}
print(json.dumps(facts), flush=True)
while True:
    signal.pause()
