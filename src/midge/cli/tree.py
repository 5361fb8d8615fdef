"""Every command: its name, where its code is, and the line about it. The help, the completion, the documentation and
the tests are made from this table; no command is imported for it."""

from __future__ import annotations

from midge.cli.lazy import Entry

_C = "midge.cli.commands"
_M = f"{_C}.machine"

APP: dict[str, Entry] = {
    "create": Entry(f"{_C}.app:create", "Create an app."),
    "list": Entry(f"{_C}.app:list_apps", "List the apps of an organization.", aliases=("ls",)),
    "destroy": Entry(f"{_C}.app:destroy", "Destroy apps and all their machines.", aliases=("rm", "delete")),
}

_RUN = "Create and run"
_LIFE = "Change state"
_LOOK = "Look"
_INSIDE = "Inside a machine"

MACHINE: dict[str, Entry] = {
    "run": Entry(f"{_M}.run:run", "Run a command in a new machine.", _RUN),
    "create": Entry(f"{_M}.create:create", "Create a machine without starting it.", _RUN),
    "clone": Entry(f"{_M}.clone:clone", "Create a machine with another one's configuration.", _RUN),
    "update": Entry(f"{_M}.update:update", "Change a machine's configuration.", _RUN),
    "start": Entry(f"{_M}.lifecycle:start", "Start machines, or resume suspended ones.", _LIFE),
    "stop": Entry(f"{_M}.lifecycle:stop", "Stop machines.", _LIFE),
    "restart": Entry(f"{_M}.lifecycle:restart", "Stop machines and start them again.", _LIFE),
    "suspend": Entry(f"{_M}.lifecycle:suspend", "Save machines' memory and end them.", _LIFE),
    "destroy": Entry(
        f"{_M}.lifecycle:destroy", "Destroy machines.", _LIFE, aliases=("rm", "remove", "delete")
    ),
    "kill": Entry(
        f"{_M}.lifecycle:kill", "Send a signal to machines' main processes.", _LIFE, aliases=("signal",)
    ),
    "wait": Entry(f"{_M}.wait:wait", "Wait until a machine is in a state.", _LIFE),
    "list": Entry(f"{_M}.list:list_machines", "List machines.", _LOOK, aliases=("ls",)),
    "status": Entry(f"{_M}.status:status", "Show one machine.", _LOOK, aliases=("show", "inspect")),
    "events": Entry(f"{_M}.events:events", "Show what happened to a machine.", _LOOK),
    "logs": Entry(f"{_M}.logs:logs", "Print a machine's output.", _LOOK, aliases=("log",)),
    "ps": Entry(f"{_M}.ps:ps", "List the processes inside a machine.", _INSIDE),
    "exec": Entry(f"{_M}.exec:exec_command", "Run a command in a running machine.", _INSIDE),
}

IMAGE: dict[str, Entry] = {
    "ls": Entry(f"{_C}.image:list_images", "List the images the host keeps.", aliases=("list",)),
    "pull": Entry(f"{_C}.image:pull", "Fetch images before a machine needs them."),
    "import": Entry(f"{_C}.image:import_archive", "Import an archive of `docker save` or an OCI layout."),
    "rm": Entry(f"{_C}.image:remove", "Remove images.", aliases=("remove", "delete")),
    "prune": Entry(f"{_C}.image:prune", "Remove all images that no machine uses."),
}

KERNEL: dict[str, Entry] = {
    "ls": Entry(f"{_C}.kernel:list_kernels", "List the guest kernels of this host.", aliases=("list",)),
    "fetch": Entry(f"{_C}.kernel:fetch", "Fetch the distribution's cloud kernel."),
    "build": Entry(f"{_C}.kernel:build", "Build the trimmed kernel, which boots fastest."),
}

CONTEXT: dict[str, Entry] = {
    "ls": Entry(f"{_C}.context:list_contexts", "List the servers you named.", aliases=("list",)),
    "use": Entry(f"{_C}.context:use", "Choose the server that commands talk to."),
    "add": Entry(f"{_C}.context:add", "Name a server."),
    "rm": Entry(f"{_C}.context:remove", "Forget servers, and their tokens.", aliases=("remove", "delete")),
}

CONFIG: dict[str, Entry] = {
    "show": Entry(f"{_C}.config:show", "Show the settings in force."),
}

_WORK = "Work"
_HOST = "This host"
_TOOL = "This program"

TABLE: dict[str, Entry] = {
    "machine": Entry(MACHINE, "Create, run and look after machines.", _WORK, aliases=("machines", "m")),
    "app": Entry(APP, "Create and destroy apps, which hold machines.", _WORK, aliases=("apps",)),
    "image": Entry(IMAGE, "Look after the images a host keeps.", _WORK, aliases=("images",)),
    "proxy": Entry(f"{_C}.proxy:proxy", "Forward a local port to a machine's port.", _WORK),
    "serve": Entry(f"{_C}.serve:serve", "Run a server on this host.", _HOST),
    "status": Entry(f"{_C}.status:status", "Show whether the server is ready, and what it runs.", _HOST),
    "doctor": Entry(f"{_C}.doctor:doctor", "Check what this host can do.", _HOST),
    "bench": Entry(
        f"{_C}.bench:bench", "Measure how fast this host starts, creates and runs machines.", _HOST
    ),
    "kernel": Entry(KERNEL, "Fetch or build guest kernels.", _HOST, aliases=("kernels",)),
    "context": Entry(CONTEXT, "Name servers and choose between them.", _TOOL, aliases=("contexts",)),
    "config": Entry(CONFIG, "Show settings and where they come from.", _TOOL),
    "version": Entry(f"{_C}.version:version", "Show the versions of client and server.", _TOOL),
    "completion": Entry(f"{_C}.completion:completion", "Print a completion script for a shell.", _TOOL),
    "help": Entry(f"{_C}.help:help_command", "Describe a command, or with --json all of them.", _TOOL),
}
