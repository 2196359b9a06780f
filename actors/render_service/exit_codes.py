"""What a render server says by the way it ends; the one place where these numbers are written down.

| code | means | what to do |
|---|---|---|
| 0 | drained: asked to stop by SIGTERM, SIGINT or Drain, and every request that was taken is answered | nothing |
| 64 | the command line or the address is refused | fix the command; starting it again does not help |
| 69 | the backend cannot start: a library, a GPU or a driver is missing | see the line it printed last |
| 70 | the backend failed in the middle of its work; what it holds is not known | start it again |
| 71 | out of memory, of the machine or of the GPU | start it again, with smaller batches if it comes back |
| 75 | drained, because it was asked to recycle: a fresh process should follow | start it again at once |

The numbers are those of sysexits.h where one fits (EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE, EX_OSERR, EX_TEMPFAIL).
A negative code of `subprocess` is the signal that killed the server.
"""

from __future__ import annotations

DRAINED = 0
BAD_ARGUMENTS = 64
BACKEND_UNAVAILABLE = 69
BACKEND_FAILED = 70
OUT_OF_MEMORY = 71
RECYCLE = 75
