"""A process to supervise: answers questions after its health over a Unix socket, and misbehaves as its arguments say.

`SOCKET NAME=VALUE...`: `exit`/`say` (end at once with a code, after a line), `after` (end with `code` after so many
questions), `late` (seconds before it listens), `deaf=1` (never listens), `stubborn=1` (ignores SIGTERM), `child=1`
(starts a process that leaves its group), `rss`, `resets` and `busy` (what it says of itself), `drained` (file it
touches on SIGTERM).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def main(path, *pairs):
    how = dict(pair.split("=", 1) for pair in pairs)
    print(how.get("say", "started"), flush=True)
    if "exit" in how:
        sys.exit(int(how["exit"]))

    def drain(*_):
        if "drained" in how:
            Path(how["drained"]).touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in how else drain)
    child = None
    if "child" in how:
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=2).pid
    time.sleep(float(how.get("late", 0)))
    if "deaf" in how:
        time.sleep(1000)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    asked = 0
    while asked < int(how.get("after", 1 << 30)):
        connection, _ = listening.accept()
        asked += 1
        said = {"pid": os.getpid(), "child": child, "environment": dict(os.environ), "argv": sys.argv}
        said |= {"rss_bytes": int(how.get("rss", 1)), "resets": int(how.get("resets", 0))}
        said["busy_s"] = float(how.get("busy", 0))
        connection.sendall(json.dumps(said).encode())
        connection.close()
    sys.exit(int(how.get("code", 1)))


if __name__ == "__main__":
    main(*sys.argv[1:])
