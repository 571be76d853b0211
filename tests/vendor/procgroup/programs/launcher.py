"""Launch a group, print what it consists of, wait to be killed."""

import json
import os
import signal
import sys
import time

from procgroup import ProcessGroup, processes, wardens

# A test run under nohup hands down that it is ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
parent = os.getppid()
blueprint, way, variables = sys.argv[1:]
supervisor = "builtin" if way == "forked" else way
if way == "forked":
    # What a first launch begins, waited for, since it is the next launch that is wanted here.
    ProcessGroup.launch(blueprint, json.loads(variables), supervisor=supervisor).stop()
    for key in [*wardens._warm]:  # none, where nothing is forked
        while key in wardens._warm and not wardens._usable(*key):
            time.sleep(0.001)
group = ProcessGroup.launch(blueprint, json.loads(variables), supervisor=supervisor, timeout=60.0)
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
while os.getppid() == parent:  # else the tests have been killed themselves
    time.sleep(0.05)  # a signal just before `signal.pause()` would not end that
