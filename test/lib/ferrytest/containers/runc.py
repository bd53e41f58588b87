# SPDX-License-Identifier: Apache-2.0
"""runc, with bundles made here."""

import json
import os
import pathlib
import subprocess

from ferrytest.containers import rootfs
from ferrytest.containers.output import Output
from ferrytest.process import wait_until


class Bundle:
    """A folder with config.json and rootfs/. change: what is done to the configuration before it is written."""

    def __init__(self, folder, command, change=None):
        self.folder = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True)
        rootfs.make(self.folder / "rootfs")
        subprocess.run(["runc", "spec"], cwd=self.folder, check=True)
        path = self.folder / "config.json"
        config = json.loads(path.read_text())
        config["process"].update(terminal=False, args=command, rlimits=[])
        config["root"]["readonly"] = False
        if change:
            change(config)
        path.write_text(json.dumps(config))


def log_of(words, name):
    """The end of the log in the work directory that a command line names, for messages of failed tests."""
    log = pathlib.Path(words[words.index("--work-path") + 1]) / name if "--work-path" in words else pathlib.Path(name)
    return "\n" + log.read_text(errors="replace")[-2000:] if log.exists() else ""


class Runc:
    """Containers of one state folder. Each command that was run, with its exit status and what it printed, is in .said."""

    def __init__(self, criu, folder, runtime="runc", node=None):
        self.criu = criu
        self.node = node  # None: this machine
        self.state = pathlib.Path(folder).absolute() / f"state-{criu.name}"
        self.runtime = runtime
        self.inputs = []
        self.said = []

    def run(self, *words, **more):
        """Any command; descriptors 0 to 2 are the container's when it is one that starts it."""
        command = [self.runtime, "--root", str(self.state), *map(str, words)]
        if self.node:
            command = self.node.command(*command)
        done = subprocess.run(command, env=self.criu.environment, check=False, timeout=60, text=True,
                              **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})
        if words[0] != "state":  # who waits for something asks any number of times
            self.said.append((words[0], done.returncode))
        return done

    def good(self, *words, **more):
        """One that must succeed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, f"{self.criu.name}: {self.runtime} {words} exits with {done.returncode}: {done.stderr}"
        return done

    def adopt(self, function):
        """Call a function that starts a container in the background with the descriptors that this has; what it prints."""
        reading, writing = os.pipe()
        self.inputs.append(writing)
        output, errors = Output(), Output()
        try:
            function({"stdin": reading, "stdout": output.writing, "stderr": errors.writing})
        except AssertionError as error:
            raise AssertionError(f"{error}: {errors.lines()}") from None
        finally:
            os.close(reading)
            output.started()
            errors.started()
        return output

    def begin(self, *words):
        """A command that starts a container in the background; what that prints."""
        def start(stdio):
            done = self.run(*words, **stdio)
            assert done.returncode == 0, f"{self.criu.name}: {words[0]} exits with {done.returncode}{log_of(words, 'restore.log')}"

        return self.adopt(start)

    def start(self, bundle, name):
        """A container; what it prints."""
        return self.begin("run", "--detach", "--bundle", bundle.folder, name)

    def checkpoint(self, name, images, *words):
        """Into a folder, which then also has the log."""
        work = images.with_name(images.name + "-work")
        done = self.run("checkpoint", "--image-path", images, "--work-path", work, *words, name)
        words = ("--work-path", work)
        assert done.returncode == 0, f"{self.criu.name}: exits with {done.returncode}: {done.stderr}{log_of(words, 'dump.log')}"
        return done

    def restore(self, bundle, name, images, *words):
        """The container again; what it prints from then on."""
        return self.begin("restore", "--detach", "--bundle", bundle.folder, "--image-path", images,
                          "--work-path", images.with_name(images.name + "-work"), *words, name)

    def status(self, name):
        """Of one container; None when there is none."""
        done = self.run("state", name)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def pid(self, name):
        """Of its first process."""
        return self.status(name)["pid"]

    def end(self, name):
        """Kill and forget it."""
        if self.status(name):
            self.run("kill", name, "KILL")
            wait_until(lambda: (self.status(name) or {}).get("status") != "running", f"{name} goes on after SIGKILL")
            self.run("delete", "--force", name)
