"""Stands in for `python -m MODULE ARGUMENTS`: has it forked by a `ForkServer`, lends it its own streams, and ends as it ends.

Run by path as `python -IS forkclient.py SERVER -m MODULE ARGUMENTS`. It imports nothing that takes long, for that is what it is there to
save; signals are the forked process's to answer, which is in the same process group.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """Ask, wait, and return the exit code of the forked process; of one that a signal ended, what a shell makes of that."""
    server, _, module, *arguments = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    request = {"module": module, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    data = json.dumps(request).encode()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{server}")
            socket.send_fds(connection, [len(data).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(data)
            answer = connection.recv(16)
    except OSError as error:
        answer = b""
        sys.stderr.write(f"{error}\n")
    if not answer:
        sys.stderr.write(f"The process that was to fork {module} has ended.\n")
        return 1
    code = int(answer)
    if code >= 0:
        return code
    sys.stderr.write(f"{module} was ended by signal {-code} ({signal.strsignal(-code)}).\n")  # as the shell says of its own children
    return 128 - code


if __name__ == "__main__":
    sys.exit(main())
