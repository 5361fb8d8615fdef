"""What a shim starts in these tests: gives its end of the channel to the test, then does as told.

    guest_program.py CHANNEL_FD CONTROL_SOCKET

Over the control socket: one byte, the exit code; the end of the connection is exit code 0.
"""

import socket
import sys

control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[2])
socket.send_fds(control, [b"x"], [int(sys.argv[1])])
socket.socket(fileno=int(sys.argv[1])).close()
sys.stderr.write("guest program runs\n")
sys.stderr.flush()
sys.exit((control.recv(1) or b"\0")[0])
